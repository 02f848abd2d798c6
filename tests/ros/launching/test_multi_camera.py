"""`multi_camera.launch.py`: what it would start, and its node and example files with three cameras, started by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.extrinsics import read_extrinsics
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.camera_fusion import fuse_views
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.launching.multi_camera import for_each, launched_cameras
from scene_completion_ros.ros.parameters.file_reading import read_parameters
from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters
from scene_completion_ros.ros.place.placements import check_frames
from tests.ros.camera_to_voxels import CAMERA, SECOND_NS, is_cloud_of, some_image
from tests.ros.graph import REPOSITORY, Graph, NodeUnderTest
from tests.ros.launch_files import LaunchFile, as_text, node_arguments, resolved

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


def test_transforms_come_from_a_file_where_one_is_given(launch: LaunchFile, grid_file: Path) -> None:
    (node,) = launch.started(extrinsics_file="/my/rig.yaml", grid_frame="rig", grid_file=str(grid_file), bundle="/b")
    overrides = node.settings["parameters"][1]
    assert (overrides["transform.source"], overrides["extrinsics_file"]) == ("parameters", "/my/rig.yaml")
    assert (overrides["grid.frame"], overrides["bundle"]) == ("rig", "/b")
    _, rviz = launch.started(grid_frame="rig", rviz="true", namespace="robot")
    config = yaml.safe_load(Path(rviz.settings["arguments"][1]).read_text(encoding="utf-8"))["Visualization Manager"]
    assert config["Global Options"]["Fixed Frame"] == "rig"
    shown = {display["Name"]: display["Topic"]["Value"] for display in config["Displays"] if "Topic" in display}
    assert shown["Voxels"] == "/robot/scene_completion/voxels"
    assert [shown[f"Depth {name}"] for name in NAMES] == [f"/robot/scene_completion/depth/{n}/image" for n in NAMES]


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


def test_what_is_passed_on_is_declared_there(launch: LaunchFile, launch_file: Callable[[str], LaunchFile]) -> None:
    groups = launch.started(fuse="false")
    one = launch_file("scene_completion.launch.py")
    for group in groups:
        passed = dict(group.arguments[0][0].settings["launch_arguments"])
        started = one.started(**passed)
        assert [entity.kind for entity in started] == ["Node"]
        assert as_text(started[0], one.context(**passed))[2]
        assert resolved(started[0].settings["namespace"], {}) == passed["namespace"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/{camera}/image", ["/a/image", "/b/image"]), ("/one/image, /two/image", ["/one/image", "/two/image"])],
)
def test_topics_are_a_pattern_or_a_list(value: str, expected: list[str]) -> None:
    assert for_each(("a", "b"), value, "image_topics") == expected


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


def test_node_as_launched_fuses_three_cameras(
    launch: LaunchFile, bundle_folder: Path, completer: Callable[..., Completer], tmp_path: Path
) -> None:
    grid_file = tmp_path / "grid.yaml"  # a small part of the example's
    shipped = yaml.safe_load((CONFIG / "multi_camera_grid.yaml").read_text(encoding="utf-8"))
    grid_file.write_text(yaml.safe_dump({**shipped, "origin": [3.0, -3.2, 0.0], "shape": [32, 32, 16]}), "utf-8")
    graph = Graph()
    given = {
        "bundle": str(bundle_folder),
        "grid_file": str(grid_file),
        "extrinsics_file": str(EXTRINSICS),
        "namespace": graph.namespace,
        "image_topics": f"{graph.namespace}/cam_{{camera}}/image_raw",
        "camera_info_topics": f"{graph.namespace}/cam_{{camera}}/camera_info",
    }
    (launched,) = launch.started(**given)
    arguments = node_arguments(launched, launch.context(**given))
    more = ["-p", "threads:=1", "-p", "sync.timeout:=5.0", "-p", "image.qos:=reliable"]
    node = NodeUnderTest(["-m", "scene_completion_ros.ros.node", *arguments, "--ros-args", *more], tmp_path / "log")
    try:
        create = graph.node.create_publisher
        images = {name: create(Image, f"cam_{name}/image_raw", 10) for name in NAMES}
        infos = {name: create(CameraInfo, f"cam_{name}/camera_info", 10) for name in NAMES}
        clouds = graph.collect(PointCloud2, f"{graph.namespace}/scene_completion/voxels")
        stamp_ns = SECOND_NS

        def fused() -> bool:
            nonlocal stamp_ns
            stamp_ns += SECOND_NS
            for seed, name in enumerate(NAMES):
                infos[name].publish(messages.camera_info_message(CAMERA, stamp_ns, f"{name}_optical_frame"))
                images[name].publish(messages.image_message(some_image(seed), stamp_ns, f"{name}_optical_frame"))
            graph.until(lambda: len(clouds) > 0, 1.0)
            return bool(clouds and clouds[-1].width == len(expected))

        grid, _ = read_grid(grid_file)
        views = [
            completer(CAMERA, grid=grid, grid_from_camera=mount.parent_from_child).complete(some_image(seed))
            for seed, mount in enumerate(read_extrinsics(EXTRINSICS))
        ]
        threshold = StudentBundle.load(bundle_folder).threshold
        expected, _ = fuse_views([view.voxels for view in views], [view.probability for view in views], threshold)
        assert len(expected) > 0
        assert all(len(expected) != len(view.voxels) for view in views)
        assert graph.until(fused), node.log
        assert clouds[-1].header.frame_id == "base_link"
        assert is_cloud_of(clouds[-1], expected, RigidTransform.identity())
        node.end_well()
    finally:
        graph.close()
        node.close()
