"""The SROS 2 policy against what the running node has on the graph: nothing is missing, nothing is granted in vain."""
# ruff: noqa: E402

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ros.rclpy_required import require_rclpy

require_rclpy()

import pytest

from scene_completion_ros.ros import topics
from tests.ros.graph import REPOSITORY, Graph, NodeUnderTest, start_completion_node

POLICY = REPOSITORY / "config" / "security" / "scene_completion.policy.xml"
# Kinds of rules of SROS 2 beside the questions to the graph that answer them.
RULES = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}
# Values of parameters with which every endpoint is there in one of the two.
CONFIGURATIONS = {
    "plain": (),
    "other": ("image_transport:=compressed", "publish_markers:=true", "use_sim_time:=true"),
}

Endpoints = dict[tuple[str, str], set[str]]


def resolved(name: str, namespace: str, node: str) -> str:
    """As `permissions.xsl` of sros2 resolves the names of a profile."""
    if name.startswith("/"):
        return name
    namespace = namespace.rstrip("/")
    return f"{namespace}/{node}{name[1:]}" if name.startswith("~") else f"{namespace}/{name}"


def profile() -> ElementTree.Element:
    found = ElementTree.parse(POLICY).getroot().findall("enclaves/enclave/profiles/profile")
    assert len(found) == 1
    return found[0]


def allowed(namespace: str) -> Endpoints:
    """What the policy allows a node in a namespace."""
    endpoints: Endpoints = {rule: set() for rule in RULES}
    for group in profile():
        ((kind, qualifier),) = group.attrib.items()
        assert qualifier == "ALLOW"
        names = [resolved(str(entry.text), namespace, topics.NODE_NAME) for entry in group]
        assert len(set(names)) == len(names)
        endpoints[group.tag, kind] |= set(names)
    return endpoints


def on_graph(graph: Graph) -> Endpoints:
    """What the running node has."""
    return {
        rule: {name for name, _ in getattr(graph.node, question)(topics.NODE_NAME, graph.namespace)}
        for rule, question in RULES.items()
    }


@pytest.fixture(params=list(CONFIGURATIONS))
def running(
    request: Any, bundle_folder: Path, grid_file: Path, tmp_path: Path
) -> Iterator[tuple[str, Graph, NodeUnderTest]]:
    graph = Graph()
    given = [part for value in CONFIGURATIONS[request.param] for part in ("-p", value)]
    node = start_completion_node(graph, tmp_path / "log", bundle_folder, grid_file, *given)
    yield request.param, graph, node
    graph.close()
    node.kill()


def test_the_policy_has_the_form_that_sros2_reads() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    enclave = root.find("enclaves/enclave")
    assert enclave is not None
    assert enclave.attrib == {"path": f"/{topics.NODE_NAME}"}
    assert profile().attrib == {"ns": "/", "node": topics.NODE_NAME}
    assert {(group.tag, *group.attrib) for group in profile()} <= set(RULES)
    assert all(entry.tag == group.tag.removesuffix("s") for group in profile() for entry in group)
    assert all(entry.text and entry.text == entry.text.strip() for group in profile() for entry in group)
    assert "*" not in POLICY.read_text(encoding="utf-8")


def test_the_running_node_has_what_the_policy_allows(running: tuple[str, Graph, NodeUnderTest]) -> None:
    configuration, graph, node = running
    granted = allowed(graph.namespace)
    # What the other configuration alone uses.
    elsewhere = {
        "plain": {
            ("topics", "publish"): {topics.MARKERS},
            ("topics", "subscribe"): {f"{topics.IMAGE}/compressed", "/clock"},
        },
        "other": {("topics", "subscribe"): {topics.IMAGE}},
    }[configuration]
    expected = {
        rule: granted[rule] - {resolved(name, graph.namespace, topics.NODE_NAME) for name in elsewhere.get(rule, set())}
        for rule in RULES
    }
    name = topics.NODE_NAME, graph.namespace
    assert graph.until(lambda: name in graph.node.get_node_names_and_namespaces()), node.log
    graph.until(lambda: on_graph(graph) == expected, 45.0)
    graph.spin(1.0)  # what is not allowed may come last
    assert on_graph(graph) == expected, node.log
    assert not expected["services", "request"]  # it asks nobody for anything
