"""The launch file, what it declares and would start, and the RViz configuration, without `launch` and RViz.

`test_launch_runs` runs the launch file where launch is installed.
"""

import dataclasses
import runpy
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import pytest
import yaml

from scene_completion_ros.bags.reader import DEMO_DRIVE
from scene_completion_ros.inference.bundle import shipped_students
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.parameters import SCHEMA, NodeParameters, read_parameters
from scene_completion_ros.ros.placements import check_frames
from scene_completion_ros.ros.topics import TOPICS
from tests.checkout import ROOT

LAUNCH_FILE = ROOT / "launch" / "scene_completion.launch.py"


class Recorded:
    """Stands in for any class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.arguments, self.settings = arguments, settings

    def __repr__(self) -> str:
        return f"{self.kind}{self.arguments}{self.settings}"

    @property
    def kind(self) -> str:
        return type(self).__name__

    def perform(self, context: Mapping[str, str]) -> str:
        """The text of a substitution."""
        return str(ROOT) if self.kind == "FindPackageShare" else context[self.arguments[0]]


class Stub(ModuleType):
    """Stands in for a module of launch or launch_ros: has a class of every name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return self.__dict__.setdefault(name, type(name, (Recorded,), {}))


class LaunchFile:
    """The launch file of the package, executed with stand-ins for the modules of launch and launch_ros.

    Attributes:
        entities: What its launch description holds.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        for package in ("launch", "launch_ros"):
            for name in (package, f"{package}.actions", f"{package}.substitutions"):
                patch.setitem(sys.modules, name, Stub(name))
        patch.delitem(sys.modules, "scene_completion_ros.ros.launching.actions", raising=False)
        (found,) = runpy.run_path(str(LAUNCH_FILE))["generate_launch_description"]().arguments
        self.entities: list[Recorded] = list(found)

    def of_kind(self, kind: str) -> list[Recorded]:
        return [entity for entity in self.entities if entity.kind == kind]

    def declared(self) -> dict[str, dict[str, Any]]:
        """Launch argument -> default, description, choices."""
        return {entity.arguments[0]: entity.settings for entity in self.of_kind("DeclareLaunchArgument")}

    def context(self, **given: str) -> dict[str, str]:
        """Values of all launch arguments: those given, else the defaults."""
        assert set(given) <= set(self.declared())
        return {name: settings["default_value"] for name, settings in self.declared().items()} | given

    def started(self, **given: str) -> list[Recorded]:
        """What it starts with these launch arguments."""
        (opaque,) = self.of_kind("OpaqueFunction")
        found: list[Recorded] = opaque.settings["function"](self.context(**given))
        return found


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> LaunchFile:
    """The launch file of the package, read without `launch`."""
    return LaunchFile(monkeypatch)


def test_arguments_change_what_is_started(live: LaunchFile) -> None:
    base = {"bag": str(DEMO_DRIVE), "rviz": "true"}
    others = {"rviz": "false", "use_sim_time": "false"}

    def outcome(**given: str) -> str:
        return repr(live.started(**given))

    before = outcome(**base)
    assert outcome(**base) == before
    for argument, settings in live.declared().items():
        choices = [choice for choice in settings.get("choices") or [] if choice not in ("", settings["default_value"])]
        other = others.get(argument, choices[0] if choices else "other")
        assert outcome(**{**base, argument: other}) != before, argument


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ({}, {}),
        ({"image_transport": "raw"}, {"image.transport": "raw"}),
        ({"image_transport": "compressed"}, {"image.transport": "compressed"}),
        ({"autostart": "false"}, {"autostart": False}),
        ({"autostart": "true", "bundle": "/my/bundle"}, {"autostart": True, "bundle": "/my/bundle"}),
        ({"use_sim_time": "true"}, {"use_sim_time": True}),
        ({"use_sim_time": "false", "bag": "drive"}, {"use_sim_time": False}),
        ({"bag": "drive"}, {"use_sim_time": True}),
    ],
)
def test_the_parameter_file_is_overridden_only_with_what_was_given(
    live: LaunchFile, given: dict[str, str], overrides: dict[str, Any]
) -> None:
    node, *_ = live.started(**given)
    file, *others = node.settings["parameters"]
    assert file == str(ROOT / "config" / "scene_completion.yaml")
    assert others == ([overrides] if overrides else [])


def test_rviz_shows_what_was_launched(live: LaunchFile) -> None:
    _, rviz = live.started(rviz="true", namespace="robot", image_topic="/cam/image_raw", use_sim_time="true")
    assert rviz.settings["arguments"] == ["-d", str(RVIZ), "-f", "camera_optical_frame"]
    assert rviz.settings["parameters"] == [{"use_sim_time": True}]
    renamed = dict(rviz.settings["remappings"])
    assert {renamed[topic] for topic in shown_topics()} == {
        topic.replace("/scene_completion/", "/robot/scene_completion/").replace("/image", "/cam/image_raw", 1)
        if topic.startswith("/image")
        else topic.replace("/scene_completion/", "/robot/scene_completion/")
        for topic in shown_topics()
    }
    _, rviz = live.started(rviz="true", rviz_config="/my/own.rviz", fixed_frame="odom")
    assert rviz.settings["arguments"] == ["-d", "/my/own.rviz", "-f", "odom"]


CONFIG = ROOT / "config"


def test_the_settings_of_a_small_robot_fit_the_node() -> None:
    given = read_parameters(CONFIG / "small_robot.yaml")
    parameters = NodeParameters(**{spec.field: given[spec.name] for spec in SCHEMA if spec.name in given})
    assert parameters.bundle in shipped_students() and len(given) == 4
    check_frames(dataclasses.replace(parameters, camera_height=0.3))
    assert parameters.obstacle_min_height < parameters.obstacle_max_height


RVIZ = CONFIG / "scene_completion.rviz"
DISPLAYS = yaml.safe_load(RVIZ.read_text(encoding="utf-8"))["Visualization Manager"]["Displays"]
MESSAGES = {
    "PointCloud2": {"sensor_msgs/msg/PointCloud2"},
    "Map": {"nav_msgs/msg/OccupancyGrid"},
    "Image": {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"},
}


def shown_topics() -> set[str]:
    return {display["Topic"]["Value"] for display in DISPLAYS if "Topic" in display}


def test_topics_of_rviz_are_those_of_the_node_with_types_and_qos_that_fit() -> None:
    published = {topics.default_name(spec.name): spec for spec in TOPICS}
    for display in DISPLAYS:
        if "Topic" not in display:
            continue
        name, topic = display["Name"], display["Topic"]
        spec = published[topic["Value"]]
        assert spec.type_name in MESSAGES[display["Class"].split("/")[1]], name
        # All outputs are reliable. Images need not be; best effort hears every camera.
        assert topic["Reliability Policy"] == ("Reliable" if spec.direction == "out" else "Best Effort"), name
        assert topic["Durability Policy"] == ("Transient Local" if spec.latched else "Volatile"), name
        assert topic["History Policy"] == "Keep Last" and topic["Depth"] >= 1
