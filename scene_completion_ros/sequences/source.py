"""What a kind of recording tells `open_recording` of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence

UNKNOWN_POSES = "none"  # as name of the poses: the frames are unrelated, each of them taken somewhere else

# Reads the assets of a frame; None where they are not around the camera that is named.
VoxelReader: TypeAlias = Callable[[PosedSequence, int, str], VoxelTruth | None]


@dataclass(frozen=True)
class Source:
    """One kind of recording, in a file of its own; `SOURCES` in `opening.py` lists them."""

    looks_like: str  # what it consists of, for users whose folder nobody recognises
    recognises: Callable[[Path], bool]  # whether a path is such a recording
    # Opens it. The second argument names its poses, where there are several, or is `UNKNOWN_POSES`.
    open: Callable[[Path, str | None], PosedSequence]
    # Assets that hold the true voxels of its frames; none where it has no such truth.
    voxel_assets: tuple[str, ...] = ()
    voxels: VoxelReader | None = None  # reads them, where a frame has them all
