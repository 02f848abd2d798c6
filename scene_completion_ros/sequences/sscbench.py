"""The voxel labels of SSCBench-KITTI-360, which lie beside drives of KITTI-360.

    preprocess/labels/2013_05_28_drive_0009_sync/    000000_1_1.npy  000005_1_1.npy …
    voxel_gt/2013_05_28_drive_0009_sync/             000000_1_1.npy …     as S4C made them anew

Each is [256, 256, 32] in the frame of the LiDAR (`SSCBENCH_GRID`): SSCBench's ids, 0 empty, 255 invalid. SSCBench
counts the frames that KITTI-360 has a pose of: its number i is line i of `data_poses/DRIVE/poses.txt`, from 0 on, as
SceneDINO reads it, too. The labels that SSCBench distributed first were made with its label map for nuScenes, whose ids
end at 10 (SSCBench, issue 9); its folder `unified` has other ids again, up to 12. Vegetation is 13 here, and no drive
is without it.

Li et al., "SSCBench" (arXiv 2306.09001); Hayler et al., "S4C" (3DV 2024).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.semantic_classes import SSCBENCH_CLASSES, SSCBENCH_TO_COMMON
from scene_completion_ros.evaluation.semantic_completion import SSCBENCH_GRID
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, VoxelTruth, labelled_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.untrusted_files import read_array

FOLDERS = ("preprocess/labels", "voxel_gt")  # where labels are looked for in the root of KITTI-360
ASSET = "sscbench_label"
SUFFIX = "_1_1.npy"
# Labelled frames of the drives that SSCBench validates and tests on.
PUBLISHED = {"2013_05_28_drive_0006_sync": 1812, "2013_05_28_drive_0009_sync": 2566}
UNUSED = 19  # an id that S4C reads as empty
VEGETATION = SSCBENCH_CLASSES.index("vegetation")
_LOOKED_AT = 16
_DOWNLOAD = "Restore it, from SSCBench's preprocess/labels or from S4C's voxel_gt.zip"


def label_files(folder: Path, posed: Sequence[int]) -> dict[int, Path]:
    """KITTI-360's frame number -> file of its labels, of one drive.

    `folder`: `LABELS/DRIVE`; `posed`: frame numbers of the lines of `poses.txt`, in their order. Raises SequenceError
    where the folder is missing, holds no labels, or those of a longer drive.
    """
    files = {int(path.name[: -len(SUFFIX)]): path for path in sorted(folder.glob(f"[0-9]*{SUFFIX}"))}
    if not files:
        there = sorted(path.name for path in folder.parent.glob("*"))[:8]
        raise SequenceError(
            f"no labels NNNNNN{SUFFIX}; beside it there is {', '.join(there) or 'nothing'}",
            where=str(folder),
            cure="Name the folder that holds a folder of labels for each drive: SSCBench's preprocess/labels, or "
            "S4C's voxel_gt",
        )
    if (last := max(files)) >= len(posed):
        what = f"labels up to number {last}, but the drive has {len(posed)} poses"
        cure = "Put the labels of this drive there, and KITTI-360's own poses.txt into data_poses"
        raise SequenceError(what, where=str(folder), cure=cure)
    return {posed[number]: path for number, path in files.items()}


def check_complete(sequence: PosedSequence) -> None:
    """Raise a `SequenceError` where a drive that SSCBench validates or tests on lacks some of its labelled frames."""
    found = sum(ASSET in frame.assets for frame in sequence.frames)
    if found < (published := PUBLISHED.get(sequence.name, 1)):
        cure = "Download its labels and images to the end, or go on without: --allow-missing"
        raise SequenceError(f"{found} of {published} labelled frames are there", where=sequence.name, cure=cure)


def load_labels(path: Path) -> NDArray[np.uint8]:
    """Load the labels of a frame: uint8 [256, 256, 32], ids of `SSCBENCH_CLASSES`, 255 invalid.

    Raises SequenceError: the file is damaged or of another shape, holds other ids, or was made with a wrong label map.
    """
    labels = _stored(path)
    if (highest := _highest(labels)) < VEGETATION and not _right_label_map(path.parent):
        raise SequenceError(
            f"its ids end at {highest}, and no other frame has vegetation ({VEGETATION}) either: they were made with "
            "the label map of another data set",
            where=str(path),
            cure="Take S4C's voxel_gt, or make them anew with SSCBench's dataset/configs/kitti360.yaml",
        )
    return np.where(labels == UNUSED, np.uint8(FREE), labels)


def sscbench_truth(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth:
    """The labels of a frame as its true voxels."""
    label = sequence.frames[index].assets[ASSET]()
    pose = sequence.rig_from_sensor["velodyne"].inverse() @ sequence.rig_from_camera[camera]
    nothing = np.zeros(label.shape, np.bool_)
    grid, model = SSCBENCH_GRID, sequence.cameras[camera]
    return labelled_truth("SSCBench", label, nothing, grid, pose, model, SSCBENCH_TO_COMMON)


def _stored(path: Path) -> NDArray[np.uint8]:
    """What a file holds, as whole numbers; S4C's script writes floating-point ones."""
    stored = read_array(path, SequenceError, cure=_DOWNLOAD)
    if stored.shape != SSCBENCH_GRID.shape or stored.dtype.kind not in "uif":
        what = f"{stored.dtype} {stored.shape} instead of uint8 {SSCBENCH_GRID.shape}"
        raise SequenceError(what, where=str(path), cure=_DOWNLOAD)
    counted = (stored >= 0) & (stored <= UNUSED) | (stored == UNKNOWN)
    labels = np.where(counted, stored, 0).astype(np.uint8)
    if not np.array_equal(labels, stored):
        wrong = np.unique(stored[labels != stored])[:8].tolist()
        what = f"ids {wrong} are none of SSCBench-KITTI-360's 0 to {UNUSED} and {UNKNOWN}"
        cure = "Take the labels that are preprocessed: voxels/*.label hold raw ids"
        raise SequenceError(what, where=str(path), cure=cure)
    return labels


@lru_cache(maxsize=64)
def _right_label_map(folder: Path) -> bool:
    """Whether any of some frames of a drive has vegetation, or an id behind it."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    some = files[:: max(1, len(files) // _LOOKED_AT)]
    return any(_highest(_stored(path)) >= VEGETATION for path in some)


def _highest(labels: NDArray[np.uint8]) -> int:
    return int(labels.max(initial=0, where=labels != UNKNOWN))
