"""The LiDAR of a user's own bag: extracted with its pose, and scored under the published occupancy protocols."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros import cli
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.lidar_evaluation import scan_poses
from scene_completion_training.street_world.drive_bag import write_drive_bag
from tests.training.evaluation.one_wall import CAMERA, SENSOR, STEP, WALL_FRONT, WALL_LEFT, WALL_RIGHT, make_street

HALF_S = 50_000_000
"""Nanoseconds from image to image: half the time from scan to scan."""
LIDAR = RigidTransform(SENSOR.rotation, np.array([0.1, -0.25, -0.5]))
"""Above and behind the camera."""


def test_scans_lie_where_the_camera_sees_them(tmp_path: Path) -> None:
    """Ten images at 20 Hz and five scans at 10 Hz of a street with one wall, recorded and extracted."""
    street = make_street(("lidar",))
    frames = [dataclasses.replace(frame, stamp_ns=10**18 + HALF_S * index) for index, frame in enumerate(street.frames)]
    made = dataclasses.replace(street, frames=frames, rig_from_sensor={"velodyne": LIDAR})
    saved = PosedSequence.load(made.save(tmp_path / "street"))
    write_drive_bag(saved, tmp_path / "bag", cameras=("camera_left",), lidar_every=2)
    command = ["extract", str(tmp_path / "bag"), "--output", str(tmp_path / "out"), "--set", "keyframe_metres=0.1"]
    assert cli.main(command) == 0
    sequence = PosedSequence.load(tmp_path / "out" / "bag" / "00")
    assert len(sequence) == 10
    np.testing.assert_allclose(sequence.rig_from_sensor["velodyne"].matrix, LIDAR.matrix, atol=1e-6)
    # An image without a scan of its own shows the one before it, of which the rig has come 0.25 m nearer.
    found = list(scan_poses(sequence))
    assert [index for index, _ in found] == [0, 2, 4, 6, 8]
    for index in (0, 3, 6):
        points = sequence.lidar(index)
        front = WALL_FRONT - STEP * index
        wall = points[np.abs(points[:, 2] - front) < 0.01]
        # The wall reaches from x = -1 to 3 m: at 10 m from column 31.5 - 4 = 27.5 to 31.5 + 12 = 43.5.
        assert wall[:, 0].min() == pytest.approx(WALL_LEFT, abs=0.06)
        assert wall[:, 0].max() == pytest.approx(WALL_RIGHT, abs=0.06)
        columns = CAMERA.project(wall.astype(np.float64))[0][:, 0]
        assert columns.min() == pytest.approx(31.5 - 40.0 / front, abs=0.3)
        assert columns.max() == pytest.approx(31.5 + 120.0 / front, abs=0.3)
        stored = sequence.asset(index, "lidar_pose")
        behind = STEP * (index % 2)  # metres that the rig has driven since the scan
        np.testing.assert_allclose(stored[:3, 3], LIDAR.translation - [0.0, 0.0, behind], atol=1e-6)
