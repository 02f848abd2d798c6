"""Where voxels lie and what they are published in, for every combination of frames."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.extrinsics import rotation_of_angles
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.transform_tree import NoTransformError, TransformTree
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.ros.frame import NotYetError, Placement
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.place import transform_source
from scene_completion_ros.ros.place.placements import Placements, check_frames

STAMP_NS = 500
TRAINED_HEIGHT = 1.2
IMAGE, BASE, ODOM = "front_optical", "base_link", "odom"


class Known:
    """A camera 1.5 m above a base, one metre before its middle, which stands two metres from the start, turned left."""

    def __init__(self) -> None:
        self._tree = TransformTree()
        forward = RigidTransform(np.eye(3), np.array([1.0, 0.0, 1.5]))
        self._tree.add(BASE, IMAGE, 0, forward @ OPTICAL_FROM_FORWARD.inverse(), static=True)
        standing = RigidTransform(rotation_of_angles(0, 0, np.pi / 2), np.array([2.0, 0.0, 0.0]))
        self._tree.add(ODOM, BASE, STAMP_NS, standing, static=False)

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        try:
            return self._tree.find(target, source, stamp_ns)
        except NoTransformError as error:
            raise NotYetError(error.what, may_come=True) from None

    def forget(self) -> None:
        self._tree.forget_moving()


def placed(source: Known | None = None, **given: Any) -> Placement:
    given.setdefault("transform_source", "parameters" if source is None else "topics")
    return Placements(source, DEFAULT_GRID_FROM_CAMERA, TRAINED_HEIGHT).place(IMAGE, STAMP_NS, NodeParameters(**given))


def ahead(placement: Placement) -> dict[str, list[float]]:
    """Where the voxel ten metres before the camera lies: in what is published, and in the map."""
    grid = placement.grid_from_camera.apply(np.array([0.0, 0.0, 10.0]))
    upright = placement.map_from_grid.apply(grid)
    return {
        placement.frame_id: np.round(placement.frame_from_grid.apply(grid), 6).tolist(),
        f"map in {placement.map_frame_id}": np.round(placement.frame_from_map.apply(upright), 6).tolist(),
        "above the ground": np.round(upright[2:], 6).tolist(),
    }


def test_without_any_frames_all_is_in_the_frame_of_the_image() -> None:
    assert ahead(placed(camera_height=1.5)) == {
        IMAGE: [0.0, 0.0, 10.0],
        f"map in {IMAGE}": [0.0, 0.0, 10.0],
        "above the ground": [1.5],
    }


def test_a_height_that_nobody_gave_is_that_of_the_training_and_said_so() -> None:
    for source in (None, Known()):
        assumed = placed(source)
        assert ahead(assumed)["above the ground"] == [TRAINED_HEIGHT]
        assert assumed.assumed_height == TRAINED_HEIGHT
    assert placed(camera_height=1.5).assumed_height is None
    assert placed(Known(), base_frame=BASE).assumed_height is None


@pytest.mark.parametrize("source", [None, Known()])
def test_a_base_alone_gets_the_map(source: Known | None) -> None:
    placement = placed(source, base_frame=BASE, camera_x=1.0, camera_height=1.5)
    assert ahead(placement) == {IMAGE: [0.0, 0.0, 10.0], f"map in {BASE}": [11.0, 0.0, 1.5], "above the ground": [1.5]}
    assert placement.grid_from_camera is DEFAULT_GRID_FROM_CAMERA


@pytest.mark.parametrize("source", [None, Known()])
@pytest.mark.parametrize("base_frame", ["", BASE])
def test_a_grid_in_the_base_gets_all(source: Known | None, base_frame: str) -> None:
    placement = placed(source, grid_frame=BASE, base_frame=base_frame, camera_x=1.0, camera_height=1.5)
    assert ahead(placement) == {BASE: [11.0, 0.0, 1.5], f"map in {BASE}": [11.0, 0.0, 1.5], "above the ground": [1.5]}
    np.testing.assert_array_equal(placement.map_from_grid.matrix, np.eye(4))  # so that it is made once


@pytest.mark.parametrize(
    "given", [{"grid_frame": "map"}, {"base_frame": "map"}, {"grid_frame": BASE, "base_frame": "map"}]
)
def test_what_is_missing_is_waited_for(given: dict[str, str]) -> None:
    with pytest.raises(NotYetError, match="to 'map'"):
        placed(Known(), **given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {"base_frame": BASE},
            "parameters base_frame, .*: nothing says where the camera is in base_link. .*camera.height",
        ),
        ({"grid_frame": BASE, "camera_x": 1.0}, "parameters grid.frame, .*: nothing says where the camera is"),
        ({"base_frame": BASE, "grid_frame": ODOM, "camera_height": 1.2}, "Take one frame for both"),
        ({"transform_source": "topics"}, "transform.source is topics, but no topic is named"),
        ({"cameras": "front, left", "grid_frame": BASE, "camera_height": 1.2}, "those of one camera"),
        ({"cameras": "front, left"}, "must be attached to a frame"),
        ({"cameras": "front, front", "grid_frame": BASE}, "cannot be names of cameras"),
        ({"cameras": "../front", "grid_frame": BASE}, "'../front' cannot be names of cameras"),
    ],
)
def test_unplaced_frames_are_refused(given: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform_source, "tf2_usable", lambda: False)
    with pytest.raises(SceneCompletionError, match=complaint):
        check_frames(NodeParameters(**given))


FIXED = "- {parent: odom, child: front_optical, translation: [1.2, 0.0, 1.5], angles: [0, 3, 0], optical: true}\n"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "nothing says where the voxel grid is in 'odom': there is no source of transforms"),
        ({"base_frame": "base_link", "camera_x": 1.0}, "Set transform.source to topics and name odometry.topics"),
        ({"odometry_frame": "", "transform_source": "tf2"}, "has no frame to join images in"),
        ({"odometry_frame": "world", "fixed": True}, "extrinsics_file knows front_optical, odom only"),
    ],
)
def test_what_can_never_work_is_refused(given: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    if given.pop("fixed", False):
        (tmp_path / "extrinsics.yaml").write_text(FIXED, encoding="utf-8")
        given["extrinsics_file"] = str(tmp_path / "extrinsics.yaml")
    with pytest.raises(SceneCompletionError, match=re.escape(complaint)):
        check_frames(NodeParameters(**{"fusion_enabled": True, "transform_source": "parameters", **given}))
