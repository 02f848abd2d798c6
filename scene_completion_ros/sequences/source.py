"""What a kind of recording tells `open_recording` of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence

UNKNOWN_POSES = "none"
"""As name of the poses: the frames are unrelated, each of them taken somewhere else."""

VoxelReader: TypeAlias = Callable[[PosedSequence, int, str], VoxelTruth | None]
"""Reads the assets of a frame; None where they are not around the camera that is named."""


@dataclass(frozen=True)
class Source:
    """One kind of recording, in a file of its own; `SOURCES` in `opening.py` lists them.

    Attributes:
        looks_like: What it consists of, for users whose folder nobody recognises.
        recognises: Whether a path is such a recording.
        open: Opens it. The second argument names its poses, where there are several, or is `UNKNOWN_POSES`.
        voxel_assets: Assets that hold the true voxels of its frames; none where it has no such truth.
        voxels: Reads them, where a frame has them all.
    """

    looks_like: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path, str | None], PosedSequence]
    voxel_assets: tuple[str, ...] = ()
    voxels: VoxelReader | None = None
