"""`multi_camera.launch.py`: what it would start, and its example files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import read_extrinsics
from scene_completion_ros.inference.bundle import shipped_students
from scene_completion_ros.ros.launching.settings import launched_cameras
from scene_completion_ros.ros.parameters import SCHEMA, NodeParameters, read_parameters
from scene_completion_ros.ros.placements import check_frames
from tests.ros.launch_files import REPOSITORY
from tests.ros.launch_files import LaunchFile

CONFIG = REPOSITORY / "config"
EXTRINSICS = CONFIG / "multi_camera_extrinsics.yaml"
NAMES = ("front", "left", "right")


@pytest.fixture
def launch(launch_file: Callable[[str], LaunchFile]) -> LaunchFile:
    return launch_file("multi_camera.launch.py")


def test_one_node_fuses_all_by_default(launch: LaunchFile) -> None:
    (node,) = launch.started()
    file, overrides = node.settings["parameters"]
    assert Path(file) == CONFIG / "multi_camera.yaml"
    assert overrides == {"cameras": "front, left, right", "grid.file": str(CONFIG / "multi_camera_grid.yaml")}
    assert node.settings["remappings"] == [
        pair
        for name in NAMES
        for pair in ((f"{name}/image", f"/{name}/image_raw"), (f"{name}/camera_info", f"/{name}/camera_info"))
    ]


def test_without_fusing_each_camera_has_the_launch_file_of_one(launch: LaunchFile) -> None:
    given = {"fuse": "false", "namespace": "robot", "bag": "drive", "rviz": "true", "image_transport": "compressed"}
    *groups, player = launch.started(**given)
    assert player.settings["cmd"][:4] == ["ros2", "bag", "play", "drive"]
    assert [group.kind for group in groups] == ["GroupAction"] * 3  # each in a scope of its own
    for name, group in zip(NAMES, groups, strict=True):
        ((include,),) = group.arguments
        assert include.kind == "IncludeLaunchDescription"
        assert include.arguments[0].arguments == (str(REPOSITORY / "launch" / "scene_completion.launch.py"),)
        passed = dict(include.settings["launch_arguments"])
        assert passed["namespace"] == f"robot/{name}"
        assert (passed["image_topic"], passed["camera_info_topic"]) == (f"/{name}/image_raw", f"/{name}/camera_info")
        assert (passed["fixed_frame"], passed["bag"], passed["use_sim_time"]) == (f"{name}_optical_frame", "", "true")
        assert Path(passed["params_file"]) == CONFIG / "scene_completion.yaml"
        assert (passed["rviz"], passed["image_transport"]) == ("true", "compressed")
    plain = launch.started(fuse="false")
    assert dict(plain[0].arguments[0][0].settings["launch_arguments"])["use_sim_time"] == ""


@pytest.mark.parametrize(
    ("names", "topics", "words"),
    [
        ("", "/{camera}", "names no cameras"),
        ("a,a", "/{camera}", "twice"),
        ("a,b", "/one", "does not give one value for each of the cameras a, b"),
    ],
)
def test_what_does_not_fit_is_refused(names: str, topics: str, words: str) -> None:
    with pytest.raises(SceneCompletionError, match=words):
        launched_cameras(names, topics, "/{camera}/camera_info")


def test_the_example_files_fit_the_node_and_each_other() -> None:
    given = read_parameters(CONFIG / "multi_camera.yaml")
    values: dict[str, Any] = {spec.field: given[spec.name] for spec in SCHEMA if spec.name in given}
    check_frames(NodeParameters(**values))
    grid, _ = read_grid(CONFIG / "multi_camera_grid.yaml")
    mounts = read_extrinsics(EXTRINSICS)
    assert {mount.parent for mount in mounts} == {given["grid.frame"]}
    assert [mount.child for mount in mounts] == [f"{name}_optical_frame" for name in NAMES]
    for mount in mounts:  # inside the grid, upright, and what lies 10 m ahead of each as well
        assert grid.index_of(mount.parent_from_child.translation[None])[1].all()
        assert grid.index_of(mount.parent_from_child.apply(np.array([[0.0, 0.0, 10.0]])))[1].all()
        assert mount.parent_from_child.rotation[2, 1] == pytest.approx(-1.0)


def test_the_settings_of_a_small_robot_fit_the_node() -> None:
    given = read_parameters(CONFIG / "small_robot.yaml")
    parameters = NodeParameters(**{spec.field: given[spec.name] for spec in SCHEMA if spec.name in given})
    assert parameters.bundle in shipped_students() and len(given) == 5
    check_frames(dataclasses.replace(parameters, transform_source="tf2"))
    assert parameters.obstacle_min_height < parameters.obstacle_max_height
