"""Several cameras of a robot, whose voxels the running node fuses into one grid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import Extrinsic, RigidTransform, read_extrinsics
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.mapping.camera_fusion import fuse_views
from scene_completion_ros.mapping.clearing import ClearingRays
from scene_completion_ros.ros import messages
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from tests.ros.camera_to_voxels import (
    CAMERA,
    ERROR,
    OK,
    PATIENT_S,
    SECOND_NS,
    CameraToVoxels,
    is_cloud_of,
    some_image,
    values,
)
from tests.ros.graph import Graph, NodeUnderTest, as_arguments

MILLISECOND_NS = SECOND_NS // 1000
NAMES = ("front", "left")
EXTRINSICS = """
- {parent: base_link, child: front_optical, translation: [0.4, 0.0, 0.1], angles: [0, 0, 0], optical: true}
- {parent: base_link, child: left_optical, translation: [0.3, 0.2, 0.0], angles: [0, 3, 12], optical: true}
"""


class Rig(CameraToVoxels):
    """Two cameras that look past each other a little, and the node that fuses what they see."""

    def __init__(
        self, start: Callable[[Graph], NodeUnderTest], completer: Callable[..., Completer], mounts: list[Extrinsic]
    ) -> None:
        super().__init__(start)
        self.completers = {
            name: completer(CAMERA, grid_from_camera=mount.parent_from_child)
            for name, mount in zip(NAMES, mounts, strict=True)
        }
        self.grid, self.thresholds = self.completers["front"].grid, self.completers["front"].bundle.thresholds
        create = self.graph.node.create_publisher
        self.images = {name: create(Image, f"{name}/image", 10) for name in NAMES}
        self.camera_infos = {name: create(CameraInfo, f"{name}/camera_info", 10) for name in NAMES}
        self.clearing = self.graph.collect(PointCloud2, f"{self.output}/clearing")
        self.depths = {name: self.graph.collect(Image, f"{self.output}/depth/{name}/image") for name in NAMES}

    def start(self, camera: Camera = CAMERA) -> None:
        def calibrate() -> None:
            for name in NAMES:
                self.camera_infos[name].publish(messages.camera_info_message(camera, 0, f"{name}_optical"))

        assert self.graph.repeat(calibrate, lambda: self.node.log.count("ready for 320x96 images of") == 2), (
            self.node.log
        )
        stamp_ns = SECOND_NS

        def show() -> None:
            nonlocal stamp_ns
            stamp_ns += MILLISECOND_NS
            for name in NAMES:
                self.send(name, 0, stamp_ns)

        assert self.graph.repeat(
            show, lambda: bool(stamp_ns in self.stamps_ns and self.clearing and all(self.depths.values()))
        ), self.node.log

    def send(self, name: str, seed: int, stamp_ns: int, *, frame: str = "") -> None:
        image = messages.image_message(some_image(seed), stamp_ns, frame or f"{name}_optical")
        self.images[name].publish(image)

    def view(self, name: str, seed: int, stamp_ns: int = 0) -> Completion:
        return self.completers[name].complete(some_image(seed), stamp_ns)

    def joined(self, views: list[Completion]) -> tuple[SemanticVoxels, NDArray[np.float32]]:
        return fuse_views([view.voxels for view in views], [view.probability for view in views], self.thresholds)

    def fused(self, **seeds: int) -> SemanticVoxels:
        return self.joined([self.view(name, seed) for name, seed in seeds.items()])[0]

    def answered(self, stamp_ns: int) -> Any:
        return self.stamped(self.voxels, stamp_ns)


def assert_same(message: Any, voxels: SemanticVoxels) -> None:
    assert message.header.frame_id == "base_link"
    assert is_cloud_of(message, voxels, RigidTransform.identity())


def start_rig(start: Callable[..., Any], completer: Callable[..., Completer], folder: Path, *more: str) -> Rig:
    extrinsics = folder / "extrinsics.yaml"
    extrinsics.write_text(EXTRINSICS, encoding="utf-8")
    given = {
        "cameras": "front, left", "grid.frame": "base_link", "extrinsics_file": extrinsics,
        "sync.timeout": PATIENT_S, "image.qos": "reliable",
    }  # fmt: skip
    mounts = read_extrinsics(extrinsics)
    rig: Rig = start(*as_arguments(given), *more, kind=Rig, completer=completer, mounts=mounts)
    rig.start()
    return rig


@pytest.fixture(scope="module")
def rig(
    start_once: Callable[..., Any], completer: Callable[..., Completer], tmp_path_factory: pytest.TempPathFactory
) -> Rig:
    return start_rig(start_once, completer, tmp_path_factory.mktemp("rig"))


def test_voxels_are_fused_and_the_rest_stays_of_each_camera(rig: Rig) -> None:
    stamp_ns = 10 * SECOND_NS
    rig.send("left", 2, stamp_ns + 3 * MILLISECOND_NS)
    rig.send("front", 1, stamp_ns)
    expected = rig.fused(front=1, left=2)
    front, left = rig.view("front", 1), rig.view("left", 2)
    both = (front.voxels.state != VoxelState.UNOBSERVED) & (left.voxels.state != VoxelState.UNOBSERVED)
    assert both.any()
    assert (expected.state != front.voxels.state).any()
    assert (expected.state != left.voxels.state).any()
    assert_same(rig.answered(stamp_ns), expected)

    for name, view, view_ns in (("front", front, stamp_ns), ("left", left, stamp_ns + 3 * MILLISECOND_NS)):
        rays = ClearingRays(rig.grid, view.voxels.grid_from_camera, view.depth_camera, threads=1)
        clearing, depth = rig.stamped(rig.clearing, view_ns), rig.stamped(rig.depths[name], view_ns)
        assert clearing.header.frame_id == depth.header.frame_id == f"{name}_optical"
        ends = np.frombuffer(bytes(clearing.data), np.float32).reshape(-1, 3)
        np.testing.assert_allclose(ends, rays(expected), atol=1e-4)
        shown = np.frombuffer(bytes(depth.data), np.float32).reshape(view.shown_depth.shape)
        np.testing.assert_allclose(shown, view.shown_depth, rtol=1e-5)


def test_diagnostics_name_the_camera_that_is_missing(rig: Rig) -> None:
    diagnosed = rig.diagnosed
    stamp_ns = 15 * SECOND_NS

    def front_alone() -> None:
        nonlocal stamp_ns
        stamp_ns += 20 * MILLISECOND_NS
        rig.camera_infos["front"].publish(messages.camera_info_message(CAMERA, stamp_ns, "front_optical"))
        rig.send("front", 1, stamp_ns)

    with rig.impatient():
        left = diagnosed.until("input left", ERROR, "no image for", meanwhile=front_alone)
        assert values(left)["topic"] == f"{rig.graph.namespace}/left/image"
        diagnosed.until("input front", OK, "images/s", meanwhile=front_alone)
    diagnosed.until("inference", OK, "front ready, left ready")
    assert rig.graph.until(lambda: int(values(diagnosed.newest["input left"])["sets completed without it"]) > 0)
    assert values(diagnosed.newest["input front"])["sets completed without it"] == "0"
    assert {"calibration front", "calibration left"} <= set(diagnosed.newest)


def test_one_that_fails_does_not_stop_the_others(rig: Rig) -> None:
    # No image at all: it is waited for once, and from then on left out at once.
    stamp_ns = 20 * SECOND_NS
    with rig.impatient():
        rig.send("front", 3, stamp_ns)
        assert_same(rig.answered(stamp_ns), rig.fused(front=3))
    assert "no image of camera left at the time of the others, 1 so far" in rig.node.log

    # It returns: its first image is not waited for, if it comes after the one of the other camera.
    both = rig.fused(front=4, left=5)
    stamp_ns = 30 * SECOND_NS

    def returned() -> bool:
        nonlocal stamp_ns
        stamp_ns += SECOND_NS // 10
        rig.send("left", 5, stamp_ns)
        rig.send("front", 4, stamp_ns)
        return bool(rig.answered(stamp_ns).width == len(both))

    assert rig.graph.until(returned), rig.node.log
    assert_same(rig.answered(stamp_ns), both)

    # An image of nowhere, and one that cannot be decoded.
    stamp_ns = 40 * SECOND_NS
    rig.send("left", 6, stamp_ns, frame="nowhere")
    rig.send("front", 6, stamp_ns)
    assert_same(rig.answered(stamp_ns), rig.fused(front=6))
    assert "/left/image: " in rig.node.log
    assert "no transform from 'nowhere' to 'base_link'" in rig.node.log
    stamp_ns = 50 * SECOND_NS
    broken = messages.image_message(some_image(0), stamp_ns, "left_optical")
    broken.encoding = "holographic8"
    rig.images["left"].publish(broken)
    rig.send("front", 7, stamp_ns)
    assert_same(rig.answered(stamp_ns), rig.fused(front=7))

    # Images of other moments are not fused.
    rig.send("left", 8, 60 * SECOND_NS - 40 * MILLISECOND_NS)
    rig.send("front", 8, 60 * SECOND_NS)  # which waits for the left one again
    rig.send("left", 8, 60 * SECOND_NS)
    assert_same(rig.answered(60 * SECOND_NS), rig.fused(front=8, left=8))

    # A recording that begins anew.
    rig.send("front", 9, 5 * SECOND_NS)
    rig.send("left", 9, 5 * SECOND_NS)
    assert_same(rig.answered(5 * SECOND_NS), rig.fused(front=9, left=9))

    dropped = rig.node.end_with_all_counted()
    assert (dropped["bad image"], dropped["no transform"]) == (1, 1)
    assert "), missing left" in rig.node.log
