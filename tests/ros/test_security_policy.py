"""What the running node has on the graph, against the SROS 2 policy and against the table of its topics and services.

Nothing is missing, and nothing is granted or promised in vain.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from scene_completion_ros.ros import topics
from scene_completion_ros.ros.topics import SERVICES, TOPICS, TopicSpec
from tests.ros.graph import REPOSITORY, Graph, NodeUnderTest

POLICY = REPOSITORY / "config" / "security" / "scene_completion.policy.xml"
# Kinds of rules of SROS 2 beside the questions to the graph that answer them.
RULES = {
    ("topics", "publish"): "get_publisher_names_and_types_by_node",
    ("topics", "subscribe"): "get_subscriber_names_and_types_by_node",
    ("services", "reply"): "get_service_names_and_types_by_node",
    ("services", "request"): "get_client_names_and_types_by_node",
}
# Values of parameters with which every endpoint is there in one of the two.
CONFIGURATIONS = {"plain": (), "other": ("image.transport:=compressed", "use_sim_time:=true")}

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


def on_graph(graph: Graph) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """What the running node has, with its types."""
    return {
        rule: {
            (name, type_name)
            for name, types in getattr(graph.node, question)(topics.NODE_NAME, graph.namespace)
            for type_name in types
        }
        for rule, question in RULES.items()
    }


@pytest.fixture(scope="module", params=list(CONFIGURATIONS))
def running(request: Any, start_once: Any) -> Iterator[tuple[str, Graph, NodeUnderTest]]:
    given = [part for value in CONFIGURATIONS[request.param] for part in ("-p", value)]
    running = start_once(*given)
    graph, node, name = running.graph, running.node, (topics.NODE_NAME, running.graph.namespace)
    assert graph.until(lambda: name in graph.node.get_node_names_and_namespaces()), node.log
    yield request.param, graph, node
    running.close()


def there(spec: TopicSpec, configuration: str) -> bool:
    """Whether a topic is there in a configuration, given what it is only there with."""
    values = {"image.transport": "raw", "use_sim_time": "false"}
    values |= dict(value.split(":=") for value in CONFIGURATIONS[configuration])
    name, _, needed = spec.only_with.partition(": ")
    return not name or values[name] == needed


def test_the_policy_has_the_form_that_sros2_reads() -> None:
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    enclave = root.find("enclaves/enclave")
    assert enclave.attrib == {"path": f"/{topics.NODE_NAME}"}
    assert profile().attrib == {"ns": "/", "node": topics.NODE_NAME}
    assert {(group.tag, *group.attrib) for group in profile()} <= set(RULES)
    assert all(entry.tag == group.tag.removesuffix("s") for group in profile() for entry in group)
    assert all(entry.text and entry.text == entry.text.strip() for group in profile() for entry in group)
    assert "*" not in POLICY.read_text(encoding="utf-8")


def test_the_running_node_has_the_topics_and_services_of_the_table_and_what_the_policy_allows(
    running: tuple[str, Graph, NodeUnderTest],
) -> None:
    configuration, graph, node = running
    specs = [spec for spec in TOPICS if there(spec, configuration)]
    expected = {
        ("topics", "publish"): {(spec.name, spec.type_name) for spec in specs if spec.direction == "out"},
        ("topics", "subscribe"): {(spec.name, spec.type_name) for spec in specs if spec.direction == "in"},
        ("services", "reply"): {(spec.name, spec.type_name) for spec in SERVICES},
        ("services", "request"): set(),  # it asks nobody for anything
    }
    expected = {
        rule: {(resolved(name, graph.namespace, topics.NODE_NAME), type_name) for name, type_name in endpoints}
        for rule, endpoints in expected.items()
    }
    graph.until(lambda: on_graph(graph) == expected)
    graph.spin(1.0)  # what is not allowed may come last
    assert on_graph(graph) == expected, node.log

    # What the other configuration alone uses is granted as well.
    elsewhere = {
        "plain": {("topics", "subscribe"): {f"{topics.IMAGE}/compressed", "/clock"}},
        "other": {("topics", "subscribe"): {topics.IMAGE}},
    }[configuration]
    for rule, granted in allowed(graph.namespace).items():
        unused = {resolved(name, graph.namespace, topics.NODE_NAME) for name in elsewhere.get(rule, set())}
        assert granted - unused == {name for name, _ in expected[rule]}
        assert unused <= granted


def test_outputs_are_reliable_and_as_latched_as_the_table_says(running: tuple[str, Graph, NodeUnderTest]) -> None:
    configuration, graph, node = running
    expected = {spec.name: spec.latched for spec in TOPICS if spec.direction == "out" and there(spec, configuration)}

    def found() -> dict[str, bool]:
        """Which topics the node publishes reliably, and whether these are latched."""
        return {
            name: publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            for name in expected
            for publisher in graph.node.get_publishers_info_by_topic(resolved(name, graph.namespace, topics.NODE_NAME))
            if (publisher.node_name, publisher.node_namespace) == (topics.NODE_NAME, graph.namespace)
            and publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        }

    graph.until(lambda: found() == expected)
    assert found() == expected, node.log
