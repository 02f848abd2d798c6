"""KITTI folders as posed sequences: made-up ones for the format, real ones for the geometry."""

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import KDTree

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.frame_lists import DRIVES, part_of_recording
from scene_completion_ros.sequences.kitti import VOXEL_SHAPE, kitti_odometry
from scene_completion_ros.sequences.opening import depth_truth, lidar_depth, open_recording
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES
from tests import official_layouts as layouts

CELLS = {"road": (3, 200, 1), "trunk": (9, 9, 9), "structure": (255, 255, 31), "car": (0, 0, 0), "hidden": (1, 2, 3)}
FX = layouts.RAW_FX


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return layouts.kitti_odometry(tmp_path)


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


def test_voxelised_scan_is_the_official_grid(shared_data: Path) -> None:
    """LiDAR, Tr and grid origin together: the scan brought back into the velodyne frame fills the official voxels."""
    folder = shared_data / "kitti_windows" / "sequences" / "05"
    sequence = kitti_odometry(folder)
    voxelised = np.zeros(VOXEL_SHAPE, bool)
    points = sequence.rig_from_sensor["velodyne"].inverse().apply(sequence.lidar(0))
    index = np.floor((points - np.array([0, -25.6, -2.2])) / 0.2).astype(int)
    voxelised[tuple(index[((index >= 0) & (index < VOXEL_SHAPE)).all(axis=1)].T)] = True
    official = np.unpackbits(np.load(folder / "voxels_npz" / "000000.npz")["bin"]).reshape(VOXEL_SHAPE).astype(bool)
    assert (voxelised & official).sum() / (voxelised | official).sum() > 0.8
    label = sequence.asset(0, "ssc_label")
    assert label.shape == (256, 256, 32)
    assert (label[official & (label != 255)] != 0).mean() > 0.9


def test_pairs_have_drives_scans_and_true_depth(shared_data: Path) -> None:
    """The scan lies where the true depth does: poses of both, Tr and the code of the depth."""
    sequence = open_recording(shared_data / "kitti_more" / "kitti_2015_pairs")
    assert len(sequence) == 124 and sequence.pose_source == UNKNOWN_POSES
    assert len(set(sequence.provenance[DRIVES])) == 24
    truth, scan = depth_truth(sequence, 40), lidar_depth(sequence, 40)
    assert truth is not None and scan is not None
    both = (truth.depth > 0.0) & (scan > 0.0)
    assert both.sum() > 10_000 and (np.abs(scan[both] / truth.depth[both] - 1.0) < 0.05).mean() > 0.9


def test_a_drive_that_lists_its_frames_has_a_pose_a_line(shared_data: Path) -> None:
    """Scans ten frames apart agree by the poses."""
    sequence = open_recording(shared_data / "kitti_more" / "kitti_raw_0005")
    assert len(sequence) == 77 and sequence.travelled_distance() == pytest.approx(70.8, abs=0.1)
    here, there = (sequence.frames[k].world_from_rig.apply(sequence.lidar(k)) for k in (20, 25))
    assert np.median(KDTree(here).query(there[::50])[0]) < 0.12


def repacked(folder: Path) -> Path:
    """Three frames of a longer drive, with LiDAR and true depth."""
    for camera in ("image_2", "image_3"):
        (folder / camera / "000001.png").unlink()
    for name in ("velodyne_front", "true_depth"):
        (folder / name).mkdir()
    (folder / "frames.txt").write_text("0\n2\n3\n")
    (folder / "source.txt").write_text("000000 day a 0\n000001 day b 7\n000002 day b 9\n000003 day c 0\n")
    for number in range(4):
        steps = np.array([[50, 50], [0, 25], [-10, 0]], np.int16)
        np.savez(folder / "velodyne_front" / f"{number:06d}.npz", dxyz=steps)
        code = np.zeros((48, 64), np.uint8)
        code[0, :3] = 1, 128, 255
        cv2.imwrite(str(folder / "true_depth" / f"{number:06d}.png"), code)
    return folder


def test_repacked_drives(folder: Path) -> None:
    """Two returns of steps of 2 cm, and depths at both ends and in the middle of the code."""
    unrelated = kitti_odometry(repacked(folder))
    truth = depth_truth(unrelated, 0)
    assert truth is not None and (truth.depth[1:] == 0.0).all()
    np.testing.assert_allclose(truth.depth[0, :4], [2.0, 2.0 * 50.0**0.5, 100.0, 0.0], rtol=1e-6)
    returns = unrelated.rig_from_sensor["velodyne"].inverse().apply(unrelated.lidar(0))
    np.testing.assert_allclose(returns, [[1.0, 0.0, -0.2], [2.0, 0.5, -0.2]], atol=1e-6)
    assert unrelated.pose_source == UNKNOWN_POSES and unrelated.travelled_distance() == 0.0
    (folder / "source.txt").unlink()
    related = kitti_odometry(folder)
    assert [frame.world_from_rig.translation[2] for frame in related.frames] == [0.0, 1.0, 2.0]
    (folder / "times.txt").unlink()  # frames are 0.1 s apart, also those that the list leaves out
    assert [frame.stamp_ns for frame in kitti_odometry(folder).frames] == [0, 200_000_000, 300_000_000]


def test_parts_of_recordings(folder: Path) -> None:
    pairs = kitti_odometry(repacked(folder))
    assert part_of_recording(pairs, drives=["b", "c"]).provenance[DRIVES] == ["b", "c"]
    part = part_of_recording(pairs, without_drives=["b"], last=0.5)
    assert [frame.images["image_2"].stem for frame in part.frames] == ["000000"]  # type: ignore[union-attr]
    assert part_of_recording(pairs, first=0.5).provenance[DRIVES] == ["c"]
    for options, message in (({"drives": ["d"]}, "no frame of d, but of a, b, c"), ({"first": 0.5, "last": 0.5}, "no")):
        with pytest.raises(SequenceError, match=message):
            part_of_recording(pairs, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("source.txt", b"000000 day a 0\n000001 day b\n", "source.txt, line 2: no drive"),
        ("source.txt", b"000000 day a 0\n", "1 drives, but images up to frame 3"),
        ("frames.txt", b"0\n3\n", "frames.txt: does not list frame 2"),
        ("frames.txt", b"0\none\n", "frames.txt, line 2: no frame"),
        ("velodyne_front/000000.npz", b"no archive", "000000.npz: cannot be read"),
        ("velodyne_front/000000.npz", np.zeros((2, 4), np.int16), "000000.npz: dxyz is int16 .2, 4."),
        ("velodyne_front/000000.npz", np.zeros((3, 4)), "000000.npz: dxyz is float64"),
        ("true_depth/000000.png", np.zeros((48, 64), np.uint16), "000000.png: is no grey image of 8 bits"),
        ("true_depth/000000.png", np.zeros((24, 64), np.uint8), "000000.png: .*64x24.*64x48"),
    ],
)
def test_damaged_repacked_drives(folder: Path, name: str, content: bytes | np.ndarray, message: str) -> None:
    file = repacked(folder) / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif file.suffix == ".npz":
        np.savez(file, dxyz=content)
    else:
        cv2.imwrite(str(file), content)
    with pytest.raises(SequenceError, match=message):
        [loader() for loader in kitti_odometry(folder).frames[0].assets.values()]


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
    """The `.label` of one frame: four voxels of raw ids; two more voxels are invalid, one of them with a label."""
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
