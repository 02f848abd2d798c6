"""The launch file and the RViz configuration, as far as they can be checked without ROS 2's launch and RViz."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from scene_completion_ros.ros import topics
from scene_completion_ros.ros.parameters import SCHEMA

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_FILE = REPOSITORY / "launch" / "scene_completion.launch.py"
ARGUMENTS = {
    "image_topic",
    "camera_info_topic",
    "params_file",
    "image_transport",
    "autostart",
    "namespace",
    "rviz",
    "fixed_frame",
    "log_level",
}


def _spec(name: str) -> Any:
    """The spec of a real package: the folder `launch/` of a checkout looks like one as well."""
    spec = importlib.util.find_spec(name)
    return spec if spec is not None and spec.origin is not None else None


def _calls(name: str) -> list[ast.Call]:
    tree = ast.parse(LAUNCH_FILE.read_text(encoding="utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def _first_text(call: ast.Call) -> str:
    argument = call.args[0]
    assert isinstance(argument, ast.Constant)
    return str(argument.value)


def test_every_launch_argument_is_declared_and_used() -> None:
    declared = {_first_text(call) for call in _calls("DeclareLaunchArgument")}
    used = {_first_text(call) for call in _calls("LaunchConfiguration")}
    assert declared == used == ARGUMENTS


@pytest.mark.skipif(
    _spec("launch") is None or _spec("launch_ros") is None, reason="launch and launch_ros are not installed"
)
def test_launch_description_can_be_made() -> None:
    spec = importlib.util.spec_from_file_location("scene_completion_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    assert {argument.name for argument in description.get_launch_arguments()} == ARGUMENTS


class Recorded:
    """Stands in for any class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.arguments, self.settings = arguments, settings

    def perform(self, context: dict[str, str]) -> str:
        return context[self.arguments[0]]


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ({}, []),
        ({"image_transport": "raw"}, [{"image_transport": "raw"}]),
        ({"image_transport": "compressed"}, [{"image_transport": "compressed"}]),
        ({"autostart": "false"}, [{"autostart": False}]),
        ({"image_transport": "raw", "autostart": "true"}, [{"image_transport": "raw"}, {"autostart": True}]),
    ],
)
def test_launch_overrides_the_parameter_file_only_with_what_was_given(
    given: dict[str, str], overrides: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = ast.parse(LAUNCH_FILE.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("launch"):
            for name in (node.module, node.module.split(".")[0]):
                if not isinstance(sys.modules.get(name), SimpleNamespace):
                    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))  # type: ignore[arg-type]
            for alias in node.names:
                setattr(sys.modules[node.module], alias.name, type(alias.name, (Recorded,), {}))
    module: dict[str, Any] = {"__name__": "launch_file"}
    exec(compile(tree, str(LAUNCH_FILE), "exec"), module)  # noqa: S102 - our own file
    (description,) = module["generate_launch_description"]().arguments
    declared = {
        entity.arguments[0]: entity.settings
        for entity in description
        if type(entity).__name__ == "DeclareLaunchArgument"
    }
    assert declared["image_transport"]["default_value"] == declared["autostart"]["default_value"] == ""
    assert declared["autostart"]["choices"] == ["", "true", "false"]
    (of_node,) = (spec for spec in SCHEMA if spec.name == "image_transport")
    assert declared["image_transport"]["choices"] == ["", *of_node.choices]
    (opaque,) = (entity for entity in description if type(entity).__name__ == "OpaqueFunction")
    (node,) = opaque.settings["function"]({"image_transport": "", "autostart": "", **given})
    parameter_file, *others = node.settings["parameters"]
    assert parameter_file.arguments == ("params_file",)
    assert others == overrides


@pytest.fixture(scope="module")
def rviz() -> dict[str, Any]:
    text = (REPOSITORY / "config" / "scene_completion.rviz").read_text(encoding="utf-8")
    manager = yaml.safe_load(text)["Visualization Manager"]
    assert isinstance(manager, dict)
    return manager


def test_rviz_shows_the_topics_of_the_node(rviz: dict[str, Any]) -> None:
    shown = {
        display["Name"]: display["Topic"]["Value"]
        for display in rviz["Displays"]
        if isinstance(display.get("Topic"), dict)
    }
    resolved = {
        name: topic.replace("~", f"/{topics.NODE_NAME}")
        for name, topic in vars(topics).items()
        if name.isupper() and isinstance(topic, str)
    }
    assert shown == {"Voxels": resolved["VOXELS"], "Image": f"/{topics.IMAGE}", "Depth": resolved["DEPTH"]}


def test_rviz_draws_voxels_as_coloured_boxes_of_their_size(rviz: dict[str, Any]) -> None:
    voxels = next(display for display in rviz["Displays"] if display["Name"] == "Voxels")
    assert voxels["Class"] == "rviz_default_plugins/PointCloud2"
    assert (voxels["Style"], voxels["Size (m)"], voxels["Color Transformer"]) == ("Boxes", 0.2, "RGB8")
    assert all(display["Class"].startswith("rviz_default_plugins/") for display in rviz["Displays"])
    assert rviz["Global Options"]["Fixed Frame"]


def test_launch_file_remaps_every_topic_of_the_rviz_file(rviz: dict[str, Any]) -> None:
    text = LAUNCH_FILE.read_text(encoding="utf-8")
    for display in rviz["Displays"]:
        if isinstance(display.get("Topic"), dict):
            topic = display["Topic"]["Value"]
            written = topic.replace(f"/{topics.NODE_NAME}", "/{NODE_NAME}").replace(
                f"/{topics.IMAGE}", "/{IMAGE}", topic == "/image"
            )
            assert f'f"{written}"' in text, topic
