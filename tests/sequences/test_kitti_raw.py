"""KITTI raw drives in a small folder of exactly the official layout, with poses that are known."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.sequences.kitti_raw import kitti_raw
from tests import official_layouts as layouts

FX = 50.0
COUNT = 5


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """The car drives north-east at 1 m a frame; cameras 2 and 3, scans of all frames but the last."""
    point = np.array([[10.0, 1.0, -1.5, 0.5]], np.float32)
    return layouts.kitti_raw(tmp_path, frames=COUNT, scans=dict.fromkeys(range(COUNT - 1), point))


def test_poses_are_those_of_the_mercator_projection(drive: Path) -> None:
    sequence = kitti_raw(drive)
    assert sequence.name == "2011_09_26_drive_0001_sync" and sequence.metric_scale
    for k, frame in enumerate(sequence.frames):
        np.testing.assert_allclose(frame.world_from_rig.translation, [0, 0, k], atol=1e-6)  # ahead, along z
        np.testing.assert_allclose(frame.world_from_rig.rotation, np.eye(3), atol=1e-9)
    assert sequence.frames[1].stamp_ns - sequence.frames[0].stamp_ns == 100_000_000
    assert sequence.frames[0].stamp_ns == 1317042145_000_000_000
    shutil.rmtree(drive / "image_02")
    right = kitti_raw(drive)
    assert set(right.cameras) == {"image_03"}
    np.testing.assert_allclose(right.world_from_camera(3, "image_03").translation[2], 3.0, atol=1e-6)


def test_turning_moves_the_camera_around_the_imu(drive: Path) -> None:
    """The camera stands 0.8 + 0.27 m … ahead of the IMU: a turn on the spot moves it on a circle of that radius."""
    turned_left = layouts.oxts_packet(0.0, 0.0, math.pi / 4 + math.pi / 2)
    (drive / "oxts" / "data" / "0000000001.txt").write_text(turned_left)
    sequence = kitti_raw(drive)
    first, turned = sequence.frames[:2]
    imu = sequence.rig_from_sensor["imu"].translation
    np.testing.assert_allclose(imu, [-0.3, -0.08 + 0.8, -0.27 - 0.8], atol=1e-9)
    np.testing.assert_allclose(turned.world_from_rig.apply(imu), first.world_from_rig.apply(imu), atol=1e-6)
    ahead = turned.world_from_rig.rotation @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(ahead, [-1.0, 0.0, 0.0], atol=1e-9)  # anticlockwise: to the left


def test_scans_fall_where_the_projection_of_the_development_kit_puts_them(drive: Path) -> None:
    sequence = kitti_raw(drive)
    points = sequence.lidar(0)
    # P_rect_02 @ R_rect_00 @ (R | T) of the velodyne, as the development kit multiplies them
    camera = np.array([-1.0, 1.5 - 0.08, 10.0 - 0.27])
    np.testing.assert_allclose(points, [camera], atol=1e-6)
    pixel = (FX * camera[:2] + [31.5 * camera[2] + 2.0, 23.5 * camera[2]]) / camera[2]
    projected, valid = sequence.cameras["image_02"].project(
        sequence.rig_from_camera["image_02"].inverse().apply(points)
    )
    np.testing.assert_allclose(projected[0], pixel, atol=1e-5)
    assert valid.all()
    baseline = sequence.rig_from_camera["image_02"].inverse() @ sequence.rig_from_camera["image_03"]
    np.testing.assert_allclose(baseline.translation, [27.0 / FX, 0, 0])
    assert sequence.lidar(COUNT - 1) is None
