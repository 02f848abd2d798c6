"""Semantic voxels from files written exactly as SemanticKITTI and SSCBench-KITTI-360 publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.velodyne import VOXEL_SHAPE, load_voxel_mask
from scene_completion_ros.sequences.voxel_labels import (
    SEMANTIC_KITTI_LEARNING_IDS,
    SSCBENCH_LEARNING_IDS,
    load_semantic_kitti_labels,
    load_sscbench_labels,
    load_sscbench_voxels,
    sscbench_label_files,
)

ROAD, TRUNK, OTHER_STRUCTURE, MOVING_CAR = 40, 71, 52, 252  # raw ids
CELLS = {"road": (3, 200, 1), "trunk": (9, 9, 9), "structure": (255, 255, 31), "car": (0, 0, 0), "hidden": (1, 2, 3)}


@pytest.fixture
def voxels(tmp_path: Path) -> Path:
    """Folder `voxels` of one frame: four labels, two invalid voxels, one of them with a label."""
    folder = tmp_path / "voxels"
    folder.mkdir()
    raw, invalid = np.zeros(VOXEL_SHAPE, "<u2"), np.zeros(VOXEL_SHAPE, bool)
    for name, value in (("road", ROAD), ("trunk", TRUNK), ("structure", OTHER_STRUCTURE), ("car", MOVING_CAR)):
        raw[CELLS[name]] = value
    invalid[CELLS["hidden"]] = invalid[CELLS["road"]] = True
    raw.tofile(folder / "000005.label")
    np.packbits(invalid).tofile(folder / "000005.invalid")
    return folder


def test_semantic_kitti(voxels: Path) -> None:
    labels = load_semantic_kitti_labels(voxels / "000005.label")
    assert (labels.shape, labels.dtype) == ((256, 256, 32), np.uint8)
    found = {name: int(labels[cell]) for name, cell in CELLS.items()}
    # Invalid voxels never count; an occupied voxel without a class is not empty.
    assert found == {"road": 255, "trunk": 16, "structure": 255, "car": 1, "hidden": 255}
    assert np.count_nonzero(labels) == 5


@pytest.mark.parametrize("packed", [True, False], ids=["one bit a voxel", "one byte a voxel"])
def test_sscbench_voxels(voxels: Path, packed: bool) -> None:
    if not packed:
        invalid = load_voxel_mask(voxels / "000005.invalid")
        invalid.astype(np.uint8).tofile(voxels / "000005.invalid")
        np.testing.assert_array_equal(load_voxel_mask(voxels / "000005.invalid"), invalid)
    labels = load_sscbench_voxels(voxels / "000005.label")
    found = {name: int(labels[cell]) for name, cell in CELLS.items()}
    # Invalid voxels keep a label that they have; trunks have no class here, other structures have one.
    assert found == {"road": 7, "trunk": 255, "structure": 17, "car": 1, "hidden": 255}


def test_learning_ids_of_both() -> None:
    assert sorted(set(SEMANTIC_KITTI_LEARNING_IDS.values())) == [*range(20), 255]
    assert sorted(set(SSCBENCH_LEARNING_IDS.values())) == [*range(19), 255]
    assert [raw for raw, learning in SEMANTIC_KITTI_LEARNING_IDS.items() if learning == 0] == [0]
    assert [raw for raw, learning in SSCBENCH_LEARNING_IDS.items() if learning == 0] == [0]
    ids = (10, 252, 31, 253, 40, 60, 44, 48, 49, 50, 70, 72, 80, 81, 99, 259)
    kitti = [SEMANTIC_KITTI_LEARNING_IDS[raw] for raw in ids]
    assert kitti == [1, 1, 7, 7, 9, 9, 10, 11, 12, 13, 15, 17, 18, 19, 255, 5]
    assert [SSCBENCH_LEARNING_IDS[r] for r in ids] == [1, 1, 255, 255, 7, 7, 8, 9, 10, 11, 13, 14, 15, 16, 18, 5]


def test_defects_of_voxels_name_file_and_cure(voxels: Path) -> None:
    path = voxels / "000005.label"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(SequenceError, match=r"000005\.label: 2097151 voxels instead of 2097152\. Restore"):
        load_semantic_kitti_labels(path)
    np.full(VOXEL_SHAPE, 77, "<u2").tofile(path)
    for load in (load_semantic_kitti_labels, load_sscbench_voxels):
        with pytest.raises(SequenceError, match=r"000005\.label: raw ids \[77\] are unknown"):
            load(path)
    path.write_bytes(content)
    (voxels / "000005.invalid").write_bytes(b"\0" * 100)
    with pytest.raises(SequenceError, match=r"000005\.invalid: 100 bytes instead of 262144"):
        load_sscbench_voxels(path)
    (voxels / "000005.invalid").unlink()
    with pytest.raises(SequenceError, match=r"000005\.invalid: is missing.*Unpack it"):
        load_semantic_kitti_labels(path)
    path.unlink()
    with pytest.raises(SequenceError, match=r"000005\.label: cannot be read"):
        load_semantic_kitti_labels(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_preprocessed_labels(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "labels" / "2013_05_28_drive_0009_sync"
    folder.mkdir(parents=True)
    labels = np.zeros(VOXEL_SHAPE, dtype)
    labels[1, 2, 3], labels[4, 5, 6], labels[7, 8, 9] = 18, 255, 19
    for frame in (10, 5):
        np.save(folder / f"{frame:06d}_1_1.npy", labels)
    np.save(folder / "000005_1_8.npy", labels[::8, ::8, ::8])
    files = sscbench_label_files(folder)
    assert list(files) == [5, 10]
    loaded = load_sscbench_labels(files[10])
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, labels)
    with pytest.raises(SequenceError, match=r"000005_1_8\.npy: shape \(32, 32, 4\) instead of \(256, 256, 32\)"):
        load_sscbench_labels(folder / "000005_1_8.npy")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.full(VOXEL_SHAPE, 40, np.uint16), r"ids \[40\], outside 0\.\.19 and 255.*not raw ones"),
        (np.full(VOXEL_SHAPE, 1.5, np.float32), r"ids \[1\.5\]"),
        (np.full(VOXEL_SHAPE, np.nan, np.float32), r"ids \[nan\]"),
        (np.full(VOXEL_SHAPE, -1, np.int8), r"ids \[-1\]"),
        (np.zeros(VOXEL_SHAPE, bool), "numbers of type bool"),
    ],
)
def test_defects_of_preprocessed_labels(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    np.save(tmp_path / "000000_1_1.npy", labels)
    with pytest.raises(SequenceError, match=r"000000_1_1\.npy: " + words):
        load_sscbench_labels(tmp_path / "000000_1_1.npy")


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "000000_1_1.npy"
    with pytest.raises(SequenceError, match="cannot be read"):
        load_sscbench_labels(path)
    path.write_bytes(b"not numpy")
    with pytest.raises(SequenceError, match="cannot be read"):
        load_sscbench_labels(path)
    with path.open("wb") as file:
        np.savez(file, labels=np.zeros(3))
    with pytest.raises(SequenceError, match="an archive instead of"):
        load_sscbench_labels(path)
    path.unlink()
    with pytest.raises(SequenceError, match="no .*_1_1.npy"):
        sscbench_label_files(tmp_path)


def test_learning_ids_of_a_scan_are_those_of_the_voxels_it_falls_into(shared_data: Path) -> None:
    """Raw ids of real points against learning ids of real voxels that were made elsewhere."""
    sequence = kitti_odometry(shared_data / "kitti_windows" / "sequences" / "04")
    points_rig, raw, label = sequence.lidar(0), sequence.asset(0, "lidar_semantic"), sequence.asset(0, "ssc_label")
    assert points_rig is not None and raw is not None and label is not None
    points = sequence.rig_from_sensor["velodyne"].inverse().apply(points_rig)
    index = np.floor((points - np.array([0, -25.6, -2.2])) / 0.2).astype(int)
    inside = ((index >= 0) & (index < VOXEL_SHAPE)).all(axis=1)
    expected = np.array([SEMANTIC_KITTI_LEARNING_IDS[int(value)] for value in raw[inside]])
    voxel = label[tuple(index[inside].T)]
    labelled = (expected != 255) & (expected != 0) & (voxel != 255)
    assert labelled.sum() > 10_000
    assert np.mean(voxel[labelled] == expected[labelled]) > 0.9
