"""KITTI-360 in a small folder of exactly the official layout, with fisheyes, and the published frame lists."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry import view_rotation, virtual_pinhole
from scene_completion_ros.sequences.frame_lists import read_frame_list
from scene_completion_ros.sequences.kitti_360 import kitti_360
from scene_completion_ros.sequences.opening import open_recording
from tests import official_layouts as layouts
from tests.official_layouts import DRIVE, RECTIFY, SIDEWAYS, VELO_FROM_CAMERA0, world_from_rig

POSED = (4, 5, 7, 8)  # the car stood at 6: no pose


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layouts.kitti_360(tmp_path, posed=POSED, scans={4: np.array([[9.0, -1.0, -0.4, 0.25]], np.float32)})
    return tmp_path


def test_only_posed_frames_in_order(root: Path) -> None:
    sequence = kitti_360(root, "0000")
    assert open_recording(root / "data_2d_raw" / DRIVE).name == DRIVE
    assert sequence.name == DRIVE and sequence.pose_source == "cam0_to_world.txt"
    assert [int(sequence.image(i, "image_00")[0, 0, 0]) for i in range(len(sequence))] == list(POSED)
    assert [frame.stamp_ns % 1_000_000_000 for frame in sequence.frames] == [90_000_000 * k for k in POSED]
    for index, number in enumerate(POSED):
        np.testing.assert_allclose(
            sequence.frames[index].world_from_rig.matrix, world_from_rig(number).matrix, atol=1e-9
        )


def test_scan_and_stereo_pair_project_as_in_the_development_kit(root: Path) -> None:
    sequence = kitti_360(root, DRIVE)
    points = sequence.lidar(0)
    raw = np.linalg.inv(VELO_FROM_CAMERA0.matrix) @ [9.0, -1.0, -0.4, 1.0]
    np.testing.assert_allclose(points[0], RECTIFY @ raw[:3], atol=1e-6)
    right = sequence.rig_from_camera["image_01"]
    np.testing.assert_allclose(right.translation, [33.0 / 55.25, 0, 0])
    assert sequence.lidar(1) is None
    assert set(sequence.rig_from_sensor) == {"velodyne", "imu"}


def test_fisheyes_stand_where_the_calibration_puts_them(root: Path) -> None:
    """A point beside the car, through world, rig and fisheye, against the chain of the development kit."""
    plain = root / "data_2d_raw" / DRIVE / "image_02" / "data_rgb" / f"{POSED[0]:010d}.png"
    cv2.imwrite(str(plain), np.full((140, 140, 3), POSED[0], np.uint8))
    sequence = kitti_360(root, DRIVE)
    imu_from_camera = SIDEWAYS
    beside = imu_from_camera.apply(np.array([0.4, -0.3, 3.0]))  # in the IMU's frame
    world_from_imu = sequence.frames[1].world_from_rig @ sequence.rig_from_sensor["imu"]
    in_fisheye = sequence.world_from_camera(1, "image_02").inverse().apply(world_from_imu.apply(beside))
    np.testing.assert_allclose(in_fisheye, [0.4, -0.3, 3.0], atol=1e-9)
    assert sequence.cameras["image_02"].distortion_model == "mei"
    view, validity = virtual_pinhole(
        sequence.image(0, "image_02"),
        sequence.cameras["image_02"],
        sequence.cameras["image_00"],
        view_rotation(pitch=np.deg2rad(-15.0)),
    )
    assert view.shape == (38, 140, 3) and validity.mean() > 0.9 and (view[validity] == POSED[0]).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_poses/{}/cam0_to_world.txt", "4 1 0 0 nan 0 1 0 0 0 0 1 0\n", r"line 1: frame 4: matrix holds NaN"),
        ("data_poses/{}/cam0_to_world.txt", "4 1 0 0 0 0 1 0 0 0 0 1\n", r"line 1.*not numbers"),
        ("data_poses/{}/cam0_to_world.txt", "", "holds no pose"),
        ("calibration/calib_cam_to_velo.txt", "1 0 0\n", r"calib_cam_to_velo\.txt.*no 3x4"),
        ("calibration/calib_cam_to_pose.txt", "image_00: 1 0 0 0 0 1 0 0 0 0 1 0\n", "no image_02 of 12 numbers"),
        ("calibration/image_02.yaml", None, r"image_02\.yaml"),
    ],
)
def test_defects_name_their_file(root: Path, name: str, content: str | None, message: str) -> None:
    path = root / name.format(DRIVE)
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SceneCompletionError, match=message):
        kitti_360(root, DRIVE)


def test_missing_drive(root: Path) -> None:
    with pytest.raises(SequenceError, match="Unpack some of"):
        kitti_360(root, "0009")


@pytest.mark.parametrize("line", ["drive 12", "drive twelve l", "drive 12 x", "drive -1 l"])
def test_malformed_frame_lists_name_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "files.txt"
    path.write_text(f"{DRIVE} 0 l\n{line}\n")
    with pytest.raises(SequenceError, match="line 2: not `drive frame side`"):
        read_frame_list(path)
    path.write_text("\n")
    with pytest.raises(SequenceError, match="empty"):
        read_frame_list(path)
