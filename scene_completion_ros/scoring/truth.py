"""What is true of one image: voxels around its camera, depth of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

VISIBLE, OCCLUDED, ALL = "visible", "occluded", "all"
"""Regions, parts of what lies in the image: `all` is what is visible or occluded."""


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """Voxels of one frame, arrays [X, Y, Z].

    Attributes:
        grid_from_camera: Pose of the camera's optical frame in the grid.
        occupied: bool, holds anything.
        known: bool, the voxels that count.
        regions: `VISIBLE`, `OCCLUDED`, `ALL` -> bool.
    """

    grid: VoxelGrid
    grid_from_camera: RigidTransform
    occupied: NDArray[np.bool_]
    known: NDArray[np.bool_]
    regions: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class DepthTruth:
    """Depth of one frame.

    Attributes:
        depth: float32 [H, W], metres along the optical axis; 0 where nothing is known, infinite in the sky.
    """

    camera: Camera
    depth: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """What is known of a frame; either may be missing."""

    voxels: VoxelTruth | None
    depth: DepthTruth | None


class TruthSource(Protocol):
    """Where ground truth comes from.

    Attributes:
        name: For tables.
    """

    name: str

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Ground truth of an image, by its stamp and frame; None where there is none."""
