"""The launch files, as far as they can be checked without ROS 2's launch; `test_launch_runs` runs them where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scene_completion_ros.bags.reader import DEMO_DRIVE
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.launching.settings import LIVE, Shown, adapted
from tests.ros.launch_files import LAUNCH, REPOSITORY, LaunchFile, as_text, resolved

FILES = sorted(path.name for path in LAUNCH.glob("*.launch.py"))


@pytest.fixture
def live(launch_file: Callable[[str], LaunchFile]) -> LaunchFile:
    return launch_file("scene_completion.launch.py")


@pytest.mark.parametrize("name", FILES)
def test_arguments_change_what_is_started(name: str, launch_file: Callable[[str], LaunchFile], grid_file: Path) -> None:
    file = launch_file(name)
    base = {"bag": str(DEMO_DRIVE), "rviz": "true"}
    others = {
        "rviz": "false",
        "use_sim_time": "false",
        "cameras": "north, south",
        "image_topics": "/{camera}/other",
        "camera_info_topics": "/{camera}/other",
        "fuse": "false",
        "grid": str(grid_file),
        "grid_file": str(grid_file),
    }

    def outcome(**given: str) -> Any:
        try:
            return [as_text(entity, file.context(**given)) for entity in file.started(**given)]
        except SceneCompletionError as error:  # such as a bag or a topic that is not there
            return str(error)

    before = outcome(**base)
    assert not isinstance(before, str)
    assert outcome(**base) == before
    for argument, settings in file.declared().items():
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
    assert resolved(file, live.context(**given)) == str(REPOSITORY / "config" / "scene_completion.yaml")
    assert others == ([overrides] if overrides else [])


def test_rviz_is_told_what_was_launched(live: LaunchFile) -> None:
    given = {"rviz": "true", "namespace": "robot", "image_topic": "/cam/image_raw", "image_transport": "compressed"}
    _, rviz = live.started(**given)
    flag, config, *frame = rviz.settings["arguments"]
    assert (flag, frame, rviz.settings["parameters"]) == ("-d", ["-f", "camera_optical_frame"], [])
    shipped = (REPOSITORY / LIVE).read_text(encoding="utf-8")
    shown = Shown("camera_optical_frame", True, "/robot/scene_completion", {"": "/cam/image_raw"}, compressed=True)
    assert Path(config).read_text(encoding="utf-8") == adapted(shipped, shown)
    _, rviz = live.started(rviz="true", fixed_frame="odom", use_sim_time="true")
    _, config, *frame = rviz.settings["arguments"]
    assert frame == ["-f", "odom"]
    assert rviz.settings["parameters"] == [{"use_sim_time": True}]
    manager = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "odom"
    _, rviz = live.started(rviz="true", rviz_config="/my/own.rviz")
    assert rviz.settings["arguments"] == ["-d", "/my/own.rviz", "-f", "camera_optical_frame"]
