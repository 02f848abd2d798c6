"""KITTI-360 in a small folder of exactly the official layout, with fisheyes, frame lists, and SSCBench's labels."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.geometry import Resampler
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.frame_lists import frame_indices
from scene_completion_ros.sequences.kitti_360 import check_complete, kitti_360, load_labels
from scene_completion_ros.sequences.opening import holds_voxels, open_recording, voxel_truth
from tests import official_layouts as layouts
from tests.official_layouts import DRIVE, RECTIFY, SIDEWAYS, VELO_FROM_CAMERA0, world_from_rig

POSED = (4, 5, 7, 8)  # the car stood at 6: no pose


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layouts.kitti_360(tmp_path, posed=POSED, scans={4: np.array([[9.0, -1.0, -0.4, 0.25]], np.float32)})
    return tmp_path


def test_only_posed_frames_in_order(root: Path) -> None:
    sequence = kitti_360(root / "data_2d_raw" / DRIVE)
    assert open_recording(root / "data_2d_raw" / DRIVE).name == DRIVE
    assert sequence.name == DRIVE and sequence.pose_source == "cam0_to_world.txt"
    assert [int(sequence.image(i, "image_00")[0, 0, 0]) for i in range(len(sequence))] == list(POSED)
    assert [frame.stamp_ns % 1_000_000_000 for frame in sequence.frames] == [90_000_000 * k for k in POSED]
    for index, number in enumerate(POSED):
        np.testing.assert_allclose(
            sequence.frames[index].world_from_rig.matrix, world_from_rig(number).matrix, atol=1e-9
        )


def test_scan_and_stereo_pair_project_as_in_the_development_kit(root: Path) -> None:
    sequence = kitti_360(root / "data_2d_raw" / DRIVE)
    points = sequence.lidar(0)
    raw = np.linalg.inv(VELO_FROM_CAMERA0.matrix) @ [9.0, -1.0, -0.4, 1.0]
    np.testing.assert_allclose(points[0], RECTIFY @ raw[:3], atol=1e-6)
    right = sequence.rig_from_camera["image_01"]
    np.testing.assert_allclose(right.translation, [33.0 / 55.25, 0, 0])
    assert sequence.lidar(1) is None
    assert set(sequence.rig_from_sensor) == {"velodyne", "imu"}


def test_fisheyes_stand_where_the_calibration_puts_them(root: Path) -> None:
    """A point next to the car, through world, rig and fisheye, against the chain of the development kit."""
    plain = root / "data_2d_raw" / DRIVE / "image_02" / "data_rgb" / f"{POSED[0]:010d}.png"
    cv2.imwrite(str(plain), np.full((140, 140, 3), POSED[0], np.uint8))
    sequence = kitti_360(root / "data_2d_raw" / DRIVE)
    imu_from_camera = SIDEWAYS
    point = imu_from_camera.apply(np.array([0.4, -0.3, 3.0]))  # in the IMU's frame
    world_from_imu = sequence.frames[1].world_from_rig @ sequence.rig_from_sensor["imu"]
    in_fisheye = sequence.world_from_camera(1, "image_02").inverse().apply(world_from_imu.apply(point))
    np.testing.assert_allclose(in_fisheye, [0.4, -0.3, 3.0], atol=1e-9)
    assert sequence.cameras["image_02"].distortion_model == "mei"
    fisheye, front = (sequence.cameras[name] for name in ("image_02", "image_00"))
    turned = Resampler(fisheye, front, source_from_target_rotation=about(0, np.deg2rad(-15.0)))
    view, validity = turned(sequence.image(0, "image_02")), turned.validity
    assert view.shape == (38, 140, 3) and validity.mean() > 0.9 and (view[validity] == POSED[0]).all()


LABELLED_POSED = [*range(1, 6), *range(7, 14)]  # the car stood at 6; no pose of 0, as in most drives


@pytest.fixture
def labelled_root(tmp_path: Path) -> Path:
    layouts.kitti_360(tmp_path, frames=14, posed=LABELLED_POSED)
    return tmp_path


@pytest.mark.parametrize("folder", ["preprocess/labels", "voxel_gt"])
def test_labels_belong_to_the_frames_that_have_poses(labelled_root: Path, folder: str) -> None:
    layouts.sscbench_labels(labelled_root / folder)
    sequence = open_recording(labelled_root / "data_2d_raw" / layouts.DRIVE)
    labelled = [number for number, index in frame_indices(sequence).items() if holds_voxels(sequence, index)]
    assert labelled == [1, 7, 12]  # the poses with the numbers 0, 5 and 10
    np.testing.assert_array_equal(sequence.asset(2, "sscbench_label"), None)
    np.testing.assert_array_equal(sequence.asset(0, "sscbench_label"), layouts.sscbench_scene())


def test_truth(labelled_root: Path) -> None:
    """The grid begins at -2 m; what is in view follows from the calibration, here of a camera that sees less."""
    layouts.sscbench_labels(
        labelled_root / "voxel_gt", labels=layouts.sscbench_scene().astype(np.float32)
    )  # as S4C stores them
    truth = voxel_truth(kitti_360(labelled_root / "data_2d_raw" / DRIVE), 0)
    assert (truth.grid.origin, truth.grid.voxel_size) == ((0.0, -25.6, -2.0), 0.2)
    road, building, bushes = (40, 128, 2), (40, 102, 5), (40, 153, 5)
    names = [COMMON_CLASSES[truth.class_map.apply(truth.labels)[cell]] for cell in (road, building, bushes)]
    assert names == ["road", "building", "vegetation"]
    assert not truth.known[100, 128, 5] and truth.known[road] and not truth.occupied[40, 128, 5]
    # Centre 8.1, 0.1, -1.5 m of the LiDAR; the camera's axes are its -y, -z and x, and rectification turns by little.
    ahead = layouts.RECTIFY @ layouts.VELO_FROM_CAMERA0.inverse().apply(np.array([8.1, 0.1, -1.5]))
    np.testing.assert_allclose(
        truth.centres(np.arange(2**21).reshape(256, 256, 32) == 40 * 8192 + 128 * 32 + 2), [ahead], atol=1e-5
    )
    u, v = 55.25 * ahead[0] / ahead[2] + 68.2, 55.25 * ahead[1] / ahead[2] + 23.9
    assert truth.in_view[road] == (-0.5 <= u < 139.5 and -0.5 <= v < 37.5) and truth.in_view[road]
    assert not truth.in_view[2, 128, 2]  # the road right below


def test_labels_of_the_wrong_label_map(tmp_path: Path) -> None:
    """The map for nuScenes makes 8 of buildings, 9 of vegetation and 5 of the road."""
    scene = layouts.sscbench_scene()
    wrong = np.where(scene == 11, 8, np.where(scene == 13, 9, np.where(scene == 7, 5, scene))).astype(np.uint8)
    folder = layouts.sscbench_labels(tmp_path, labels=wrong) / layouts.DRIVE
    with pytest.raises(SequenceError, match=r"000005_1_1.npy: its ids end at 9, .* label map of another data set"):
        load_labels(folder / "000005_1_1.npy")
    other = tmp_path / "other"  # a frame without vegetation among others that have some
    folder = layouts.sscbench_labels(other, numbers=(0, 5)) / layouts.DRIVE
    layouts.sscbench_labels(other, numbers=(10,), labels=np.where(scene == 13, 11, scene))
    assert load_labels(folder / "000010_1_1.npy").max(initial=0, where=scene != 255) == 11


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "000000_1_1.npy"
    file.touch()
    with pytest.raises(SequenceError, match="cannot be read as arrays"):
        load_labels(file)
    for array, message in (
        (np.zeros((256, 32, 256), np.uint8), r"uint8 \(256, 32, 256\) instead of uint8 \(256, 256, 32\)"),
        (np.array([print]), "cannot be read as arrays"),
        (layouts.sscbench_scene() + 0.5, r"ids \[0.5, "),
    ):
        np.save(file, array, allow_pickle=True)
        with pytest.raises(SequenceError, match=message):
            load_labels(file)


def test_drives_that_are_not_as_they_should_be(labelled_root: Path, tmp_path: Path) -> None:
    labels = layouts.sscbench_labels(tmp_path / "labels", drive="2013_05_28_drive_0009_sync")
    with pytest.raises(
        SequenceError, match=re.escape("no labels NNNNNN_1_1.npy; its folder has 2013_05_28_drive_0009_sync")
    ):
        kitti_360(labelled_root / "data_2d_raw" / DRIVE, labels=labels)
    layouts.sscbench_labels(labels, numbers=(0, 15))
    with pytest.raises(SequenceError, match="labels up to number 15, but the drive has 12 poses"):
        kitti_360(labelled_root / "data_2d_raw" / DRIVE, labels=labels)
    layouts.kitti_360(labelled_root, drive="2013_05_28_drive_0009_sync", frames=14, posed=LABELLED_POSED)
    with pytest.raises(SequenceError, match="drive_0009_sync: 3 of 2566 labelled frames are there"):
        check_complete(kitti_360(labelled_root / "data_2d_raw" / "2013_05_28_drive_0009_sync", labels=labels))
    images = labelled_root / "data_2d_raw" / layouts.DRIVE / "image_00" / "data_rect"
    for file in images.iterdir():  # as SSCBench unpacks them
        file.rename(images / f"{int(file.stem):06d}.png")
    with pytest.raises(SequenceError, match="numbered as SSCBench numbers them"):
        kitti_360(labelled_root / "data_2d_raw" / DRIVE)
