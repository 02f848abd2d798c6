"""Semantic voxels of SemanticKITTI and SSCBench-KITTI-360 as their benchmarks evaluate them.

    sequences/08/voxels/                        SemanticKITTI: 000000.label, .invalid, .occluded, .bin
    2013_05_28_drive_0009_sync/voxels/          SSCBench-KITTI-360, published voxels: 000000.label, .invalid, .bin
    labels/2013_05_28_drive_0009_sync/          SSCBench-KITTI-360, made from them: 000000_1_1.npy

All are uint8 [256, 256, 32] (x forward, y left, z up; 0.2 m) in learning ids: 0 empty, 255 does not count. A voxel that
is occupied by something without a class does not count; only the raw id 0 is empty. The lower corner is (0, -25.6, -2)
m in the LiDAR's frame by the benchmarks' own account; SemanticKITTI's files fit (0, -25.6, -2.2) better.

SSCBench's frames are numbered by the rows of KITTI-360's `poses.txt`, not by KITTI-360's own numbers. Its published
`.npy` were made with a wrong class map (issue 9 of ai4ce/SSCBench); those that S4C and SceneDINO are scored on were
made anew. Say which were used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.velodyne import VOXEL_SHAPE, load_voxel_ids, load_voxel_mask

UNKNOWN = 255
SSCBENCH_IDS = 20  # 18 classes, empty, and an id 19 that published predictions have
_LABELS = "_1_1.npy"

_LEARNING_IDS: tuple[tuple[int, int, int], ...] = (  # raw, SemanticKITTI's, SSCBench's
    (0, 0, 0),  # empty
    (1, UNKNOWN, UNKNOWN),  # outlier
    (10, 1, 1),  # car
    (11, 2, 2),  # bicycle
    (13, 5, 5),  # bus
    (15, 3, 3),  # motorcycle
    (16, 5, 5),  # on rails
    (18, 4, 4),  # truck
    (20, 5, 5),  # other vehicle
    (30, 6, 6),  # person
    (31, 7, UNKNOWN),  # bicyclist
    (32, 8, UNKNOWN),  # motorcyclist
    (40, 9, 7),  # road
    (44, 10, 8),  # parking
    (48, 11, 9),  # sidewalk
    (49, 12, 10),  # other ground
    (50, 13, 11),  # building
    (51, 14, 12),  # fence
    (52, UNKNOWN, 17),  # other structure
    (60, 9, 7),  # lane marking
    (70, 15, 13),  # vegetation
    (71, 16, UNKNOWN),  # trunk
    (72, 17, 14),  # terrain
    (80, 18, 15),  # pole
    (81, 19, 16),  # traffic sign
    (99, UNKNOWN, 18),  # other object
    (252, 1, 1),  # moving car
    (253, 7, UNKNOWN),  # moving bicyclist
    (254, 6, 6),  # moving person
    (255, 8, UNKNOWN),  # moving motorcyclist
    (256, 5, 5),  # moving on rails
    (257, 5, 5),  # moving bus
    (258, 4, 4),  # moving truck
    (259, 5, 5),  # moving other vehicle
)

SEMANTIC_KITTI_LEARNING_IDS: dict[int, int] = {raw: learning for raw, learning, _ in _LEARNING_IDS}
"""Raw id -> learning id of SemanticKITTI's voxels: 1..19, 0 empty, 255 without a class."""

SSCBENCH_LEARNING_IDS: dict[int, int] = {raw: learning for raw, _, learning in _LEARNING_IDS}
"""Raw id -> learning id of SSCBench-KITTI-360's voxels: 1..18, 0 empty, 255 without a class."""


def load_semantic_kitti_labels(path: Path) -> NDArray[np.uint8]:
    """Load a SemanticKITTI `voxels/XXXXXX.label` with the `.invalid` beside it.

    Returns:
        Learning ids 0..19, uint8 [256, 256, 32]; 255 also for every voxel that is invalid, labelled or not.

    Raises:
        SequenceError: A file is missing, too short or too long, or holds ids that SemanticKITTI has not.
    """
    labels = _learning_ids(path, SEMANTIC_KITTI_LEARNING_IDS)
    labels[_invalid(path)] = UNKNOWN
    return labels


def load_sscbench_voxels(path: Path) -> NDArray[np.uint8]:
    """Load the published `voxels/XXXXXX.label` of SSCBench-KITTI-360 with the `.invalid` beside it.

    Returns:
        Learning ids 0..18, uint8 [256, 256, 32]; 255 also for voxels that are invalid and have no label. Unlike
        SemanticKITTI's, invalid voxels keep the label they have.

    Raises:
        SequenceError: A file is missing, too short or too long, or holds ids that SSCBench has not.
    """
    labels = _learning_ids(path, SSCBENCH_LEARNING_IDS)
    labels[_invalid(path) & (labels == 0)] = UNKNOWN
    return labels


def load_sscbench_labels(path: Path) -> NDArray[np.uint8]:
    """Load a preprocessed `labels/<drive>/XXXXXX_1_1.npy` of SSCBench-KITTI-360, whatever type its numbers have.

    Returns:
        Learning ids 0..19 and 255, uint8 [256, 256, 32].

    Raises:
        SequenceError: The file is missing or no array of this shape, or holds other numbers.
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SequenceError(f"cannot be read: {error}", where=str(path), cure="Restore the file") from error
    if not isinstance(stored, np.ndarray) or stored.shape != VOXEL_SHAPE:
        found = f"shape {stored.shape}" if isinstance(stored, np.ndarray) else "an archive"
        raise SequenceError(f"{found} instead of {VOXEL_SHAPE}", where=str(path), cure=f"Give full-size *{_LABELS}")
    if stored.dtype.kind not in "uif":
        raise SequenceError(f"numbers of type {stored.dtype}", where=str(path), cure="Store learning ids")
    outside = ~np.isin(stored, np.append(np.arange(SSCBENCH_IDS), UNKNOWN))
    if outside.any():
        raise SequenceError(
            f"ids {np.unique(stored[outside])[:8].tolist()}, outside 0..{SSCBENCH_IDS - 1} and {UNKNOWN}",
            where=str(path),
            cure="Store learning ids, not raw ones",
        )
    return stored.astype(np.uint8)


def sscbench_label_files(folder: Path | str) -> dict[int, Path]:
    """Frame number -> `XXXXXX_1_1.npy` of a folder `labels/<drive>`, in the order of the numbers.

    Raises:
        SequenceError: There is no such folder or no such file in it.
    """
    root = Path(folder)
    stems = {path: path.name.removesuffix(_LABELS) for path in root.glob(f"*{_LABELS}")}
    files = {int(stem): path for path, stem in stems.items() if stem.isdigit()}
    if not files:
        raise SequenceError(f"no *{_LABELS}", where=str(root), cure="Name the folder labels/<drive> of SSCBench")
    return dict(sorted(files.items()))


def _learning_ids(path: Path, learning_ids: Mapping[int, int]) -> NDArray[np.uint8]:
    raw = load_voxel_ids(path)
    table = np.full(np.iinfo(np.uint16).max + 1, -1, dtype=np.int16)
    table[list(learning_ids)] = list(learning_ids.values())
    labels = table[raw]
    if (labels < 0).any():
        raise SequenceError(
            f"raw ids {np.unique(raw[labels < 0])[:8].tolist()} are unknown",
            where=str(path),
            cure="Restore the file, or name the right data set",
        )
    return labels.astype(np.uint8)


def _invalid(label_path: Path) -> NDArray[np.bool_]:
    path = label_path.with_suffix(".invalid")
    if not path.is_file():
        raise SequenceError(
            "is missing", where=str(path), cure="Unpack it beside the .label: without it, unseen space counts as free"
        )
    return load_voxel_mask(path)
