"""Folders written by `PosedSequence.save`: extracted drives, and towns of the street world with their exact voxels."""

from pathlib import Path

from scene_completion_ros.evaluation.semantic_classes import ROOM_IDS, SEMANTIC_KITTI_TO_COMMON, ClassMap
from scene_completion_ros.evaluation.truth import VoxelTruth, exact_truth
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import INDEX_NAME, PosedSequence, Source
from scene_completion_ros.sequences.rigs import ROOMS, stored_around

EXACT_VOXELS = ("voxel_label", "voxel_flags")
GROUND_HEIGHT = "ground_height"


def _folder(path: Path) -> Path | None:
    """Where its index lies: in the folder itself, or in `sequence/` of a town."""
    return next((folder for folder in (path, path / "sequence") if (folder / INDEX_NAME).is_file()), None)


def _open(path: Path, _: str | None) -> PosedSequence:
    return PosedSequence.load(_folder(path) or path)


def exact_voxels(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth | None:
    """Voxels "voxel_label", "voxel_flags" around a camera. Raises SequenceError where their grid is unknown."""
    if (stored_around(sequence) or camera) != camera:
        return None
    label, flags = (sequence.frames[index].assets[name]() for name in EXACT_VOXELS)
    ground = sequence.asset(index, GROUND_HEIGHT)
    grid, pose = stored_grid(sequence), sequence.grid_from_camera(index)
    return exact_truth(label, flags, grid, pose, ground, stored_classes(sequence))


def stored_classes(sequence: PosedSequence) -> ClassMap:
    """From the ids of stored labels to the classes that are scored: those of rooms, or of streets."""
    return ROOM_IDS if sequence.provenance.get("source") == ROOMS else SEMANTIC_KITTI_TO_COMMON


def holds_exact_voxels(sequence: PosedSequence, index: int = 0) -> bool:
    """Whether a frame has the exact voxels of a rendered town."""
    return sequence.frames[index].assets.keys() >= set(EXACT_VOXELS)


def stored_grid(sequence: PosedSequence) -> VoxelGrid:
    """The grid of stored voxels; that of streets where the provenance names none."""
    return DEFAULT_GRID if sequence.provenance.get("voxel_grid") is None else sequence.voxel_grid()


SOURCE = Source(
    f"a folder with {INDEX_NAME}, such as a town of scene-completion street-world",
    lambda path: _folder(path) is not None,
    _open,
    EXACT_VOXELS,
    exact_voxels,
)
