"""Clouds to sets of voxels, at random offsets, and back to the points."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.masked_scene.points import voxels_of
from scene_completion_training.sparse.mink_unet import LEVELS

# Range of the scale, and the largest angle about x and y, of a training view (released loader of CUA-O3D).
SCALE, TILT = (0.9, 1.1), math.pi / 64
# Offsets along an axis that a network can tell apart, voxels: those of its coarsest voxels come again.
OFFSETS = 2 ** (LEVELS - 1)


@dataclass(frozen=True, eq=False)
class VoxelisedPoints:
    """V voxels of N points."""

    index: NDArray[np.int64]  # [V, 3], at least 0, each once
    voxel: NDArray[np.int64]  # row of the voxel that each point lies in [N]
    chosen: NDArray[np.int64]  # row of one point of each voxel [V]


def voxelised(points: NDArray[np.float32], edge: float, generator: np.random.Generator) -> VoxelisedPoints:
    """Voxels of points [N, 3], metres, in a grid at a random offset within a coarsest voxel.

    The point that stands for a voxel is drawn at random.
    """
    low = points.min(axis=0, initial=np.inf).astype(np.float64)
    index, chosen, voxel = voxels_of((points - low) / edge + generator.uniform(0.0, OFFSETS, 3), generator)
    return VoxelisedPoints(index, voxel, chosen)


def turned(points: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Points [N, 3] as a training sees them: turned about z, tilted and scaled."""
    yaw, (roll, pitch) = generator.uniform(-math.pi, math.pi), generator.uniform(-TILT, TILT, 2)
    axes = [(yaw, (0, 1)), (pitch, (2, 0)), (roll, (1, 2))]
    matrix = generator.uniform(*SCALE) * np.eye(3)
    for angle, (one, other) in axes:
        rotation = np.eye(3)
        rotation[[one, other], [one, other]] = math.cos(angle)
        rotation[other, one], rotation[one, other] = math.sin(angle), -math.sin(angle)
        matrix = rotation @ matrix
    return np.asarray(points @ matrix.T.astype(np.float32), np.float32)
