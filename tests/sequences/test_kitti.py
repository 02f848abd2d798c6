"""KITTI folders as posed sequences: made-up ones for the format, real ones for the geometry."""

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.sequences.kitti import VOXEL_SHAPE, kitti_odometry
from scene_completion_ros.sequences.posed_sequence import PosedSequence

CELLS = {"road": (3, 200, 1), "trunk": (9, 9, 9), "structure": (255, 255, 31), "car": (0, 0, 0), "hidden": (1, 2, 3)}
FX, CX = 50.0, 31.5
LINE = "1 0 0 {x} 0 1 0 0 0 0 1 {z}"


def projection(p4: tuple[float, float, float]) -> str:
    return f"{FX} 0 {CX} {p4[0]} 0 {FX} 23.5 {p4[1]} 0 0 1 {p4[2]}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cameras, four frames, the car drives 1 m a frame along z."""
    root = tmp_path / "sequences" / "77"
    for camera in ("image_2", "image_3"):
        (root / camera).mkdir(parents=True)
        for number in range(4):
            cv2.imwrite(str(root / camera / f"{number:06d}.png"), np.full((48, 64, 3), (10, 20, number), np.uint8))
    zero = (0.0, 0.0, 0.0)
    calibration = {"P0": zero, "P1": (-27.0, 0, 0), "P2": (3.0, 0.0, 0.0), "P3": (-24.0, 0.0, 0.0)}
    lines = [f"{name}: {projection(p4)}" for name, p4 in calibration.items()]
    (root / "calib.txt").write_text("\n".join([*lines, "Tr: 0 -1 0 0 0 0 -1 -0.1 1 0 0 -0.3"]))
    (root / "poses.txt").write_text("\n".join(LINE.format(x=0, z=z) for z in range(6)))
    (root / "times.txt").write_text("\n".join(str(z * 0.1) for z in range(6)))
    return root


def test_poses_times_and_rig(folder: Path) -> None:
    sequence = pickle.loads(pickle.dumps(kitti_odometry(folder)))  # as it is sent to worker processes
    assert sequence.name == "sequences/77"
    assert len(sequence) == 4
    assert [frame.stamp_ns for frame in sequence.frames] == [0, 100_000_000, 200_000_000, 300_000_000]
    assert sequence.travelled_distance() == pytest.approx(3.0)
    np.testing.assert_allclose(sequence.rig_from_camera["image_2"].translation, [-3 / FX, 0, 0])
    np.testing.assert_allclose(sequence.rig_from_camera["image_3"].translation, [24 / FX, 0, 0])  # to the right
    np.testing.assert_allclose(sequence.world_from_camera(2, "image_3").translation, [24 / FX, 0, 2])
    np.testing.assert_array_equal(sequence.image(1, "image_2")[0, 0], [1, 20, 10])  # RGB
    assert sequence.frames[0].assets == {}
    np.testing.assert_allclose(sequence.rig_from_sensor["velodyne"].apply(np.array([5.0, 0, 0])), [0, -0.1, 4.7])


def test_a_pose_file_can_be_chosen_and_a_frame_needs_all_images(folder: Path) -> None:
    shutil.copy(folder / "poses.txt", folder / "poses_other.txt")
    assert kitti_odometry(folder, poses="poses_other.txt").pose_source == "poses_other.txt"
    (folder / "image_3" / "000001.png").unlink()
    assert [f.stamp_ns for f in kitti_odometry(folder).frames] == [0, 200_000_000, 300_000_000]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 nan 0 1 0 0 0 0 1 0\n" * 3, r"poses.txt, line 2.*not finite"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 zero\n" * 6, r"poses.txt, line 1.*not numbers"),
        ("poses.txt", "2 0 0 0 0 1 0 0 0 0 1 0\n" * 6, r"poses.txt, line 1.*not a rigid transform"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n" * 3, "3 poses, but images up to frame 3"),
        ("poses.txt", None, "no poses.txt"),
        ("times.txt", "0.0\nsoon\n", r"times.txt, line 2.*not a time"),
        ("times.txt", "0.0\n0.1\n", "2 times, but images up to frame 3"),
        ("times.txt", "0.0\n0.1\n0.05\n0.2\n", "does not follow"),
        ("calib.txt", f"P0: {projection((0, 0, 0))}\n", "no P2 for image_2"),
        ("calib.txt", None, r"calib\.txt"),
    ],
)
def test_defects_name_file_and_line(folder: Path, name: str, content: str | None, words: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(SceneCompletionError, match=words):
        kitti_odometry(folder)


# ---- real recordings


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05", "06", "07", "09"])
def test_windows_are_ten_stereo_frames_with_lidar(shared_data: Path, number: str) -> None:
    sequence = kitti_odometry(shared_data / "kitti_windows" / "sequences" / number)
    assert len(sequence) == 10
    left, right = sequence.rig_from_camera["image_2"], sequence.rig_from_camera["image_3"]
    baseline = (left.inverse() @ right).translation
    assert 0.532 < baseline[0] < 0.538
    assert np.abs(baseline[1:]).max() < 0.01
    assert 1.0 < sequence.travelled_distance() < 14.0
    camera = sequence.cameras["image_2"]
    assert sequence.image(9, "image_3").shape == (camera.height, camera.width, 3)
    rotation = sequence.rig_from_sensor["velodyne"].rotation  # Tr is rounded
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    assert len(sequence.lidar(0)) == len(sequence.asset(0, "lidar_semantic"))  # type: ignore[arg-type]


def voxels_of_scan(sequence: PosedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that the points of the first scan fall into, and which points lie in the grid."""
    points_rig = sequence.lidar(0)
    points = sequence.rig_from_sensor["velodyne"].inverse().apply(points_rig)
    index = np.floor((points - np.array([0, -25.6, -2.2])) / 0.2).astype(int)
    inside = ((index >= 0) & (index < VOXEL_SHAPE)).all(axis=1)
    return index[inside], inside


def test_voxelised_scan_is_the_official_grid(shared_data: Path) -> None:
    """LiDAR, Tr and grid origin together: the scan brought back into the velodyne frame fills the official voxels."""
    folder = shared_data / "kitti_windows" / "sequences" / "05"
    sequence = kitti_odometry(folder)
    voxelised = np.zeros(VOXEL_SHAPE, bool)
    voxelised[tuple(voxels_of_scan(sequence)[0].T)] = True
    official = np.unpackbits(np.load(folder / "voxels_npz" / "000000.npz")["bin"]).reshape(VOXEL_SHAPE).astype(bool)
    assert (voxelised & official).sum() / (voxelised | official).sum() > 0.8
    label = sequence.asset(0, "ssc_label")
    assert label.shape == (256, 256, 32)
    assert (label[official & (label != 255)] != 0).mean() > 0.9


def test_a_raw_drive_has_scans_of_some_frames(shared_data: Path) -> None:
    sequence = kitti_odometry(shared_data / "kitti_raw" / "2011_09_26_0013")
    assert len(sequence) == 72
    assert sequence.travelled_distance() == pytest.approx(172, abs=2)
    points = sequence.lidar(10)
    assert points is not None and len(points) > 5000 and sequence.lidar(1) is None


@pytest.fixture
def official(folder: Path) -> Path:
    """The same drive as KITTI and SemanticKITTI unpack it: poses two folders up, binary scans, labels and voxels."""
    (folder.parent.parent / "poses").mkdir()
    (folder / "poses.txt").rename(folder.parent.parent / "poses" / "77.txt")
    for name in ("velodyne", "labels", "voxels"):
        (folder / name).mkdir()
    np.array([[5.0, 0.0, 0.0, 0.25], [7.0, 1.0, -1.0, 0.5]], "<f4").tofile(folder / "velodyne" / "000001.bin")
    np.array([(3 << 16) | 252, 40], "<u4").tofile(folder / "labels" / "000001.label")
    return folder


def test_official_layout(official: Path) -> None:
    sequence = kitti_odometry(official)
    assert sequence.pose_source == "77.txt" and sequence.travelled_distance() == pytest.approx(3.0)
    np.testing.assert_allclose(sequence.lidar(1), [[0.0, -0.1, 4.7], [-1.0, 0.9, 6.7]], atol=1e-6)
    np.testing.assert_array_equal(sequence.asset(1, "lidar_semantic"), [252, 40])
    assert sequence.lidar(0) is None


@pytest.fixture
def labelled(official: Path) -> Path:
    """The `.label` of one frame: four voxels of raw ids; two invalid voxels beside it, one of them with a label."""
    raw, invalid = np.zeros(VOXEL_SHAPE, "<u2"), np.zeros(VOXEL_SHAPE, bool)
    for cell, value in zip(CELLS.values(), (40, 71, 52, 252), strict=False):
        raw[cell] = value
    invalid[CELLS["hidden"]] = invalid[CELLS["road"]] = True
    raw.tofile(official / "voxels" / "000000.label")
    np.packbits(invalid).tofile(official / "voxels" / "000000.invalid")
    return official / "voxels" / "000000.label"


def test_labels_as_the_benchmark_evaluates_them(labelled: Path) -> None:
    labels = kitti_odometry(labelled.parent.parent).asset(0, "ssc_label")
    assert (labels.shape, labels.dtype) == (VOXEL_SHAPE, np.uint8)
    found = {name: int(labels[cell]) for name, cell in CELLS.items()}
    # Invalid voxels never count; an occupied voxel without a class is not empty.
    assert found == {"road": 255, "trunk": 16, "structure": 255, "car": 1, "hidden": 255}
    assert np.count_nonzero(labels) == 5
    labelled.with_suffix(".invalid").unlink()  # without it, unseen space would count as free
    assert "ssc_label" not in kitti_odometry(labelled.parent.parent).frames[0].assets


def test_unknown_ids_of_voxels_are_named(labelled: Path) -> None:
    np.full(VOXEL_SHAPE, 77, "<u2").tofile(labelled)
    with pytest.raises(SequenceError, match=r"000000\.label: raw ids \[77\] are unknown"):
        kitti_odometry(labelled.parent.parent).asset(0, "ssc_label")
    labelled.write_bytes(b"\0\0\0")
    with pytest.raises(SequenceError, match="3 bytes, no multiple of 2"):
        kitti_odometry(labelled.parent.parent).asset(0, "ssc_label")
    labelled.with_suffix(".invalid").write_bytes(b"\0\0")
    with pytest.raises(SequenceError, match="2 bytes instead of 262144"):
        kitti_odometry(labelled.parent.parent).asset(0, "ssc_invalid")
