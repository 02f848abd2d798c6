"""From density and classes at points to the class of every voxel, as S4C and SceneDINO do before they are scored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import EMPTY
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

SCENEDINO_CUTOFF = 0.2  # density per metre, one point a voxel
S4C_CUTOFF = 0.25  # density per metre, eight points a voxel


def pool_points(
    density: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], spacing: float, factor: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pool points on a finer grid into voxels: the largest density, and the label with the most opacity behind it.

    A point votes for its label with its opacity over the distance to the next point, 1 - exp(-spacing * density). S4C
    has 8 points a voxel (spacing 0.1 m, factor 2); with one point a voxel nothing is to be pooled.

    Args:
        density: Density per metre [X * factor, Y * factor, Z * factor].
        labels: Label of each point, the same shape, from 0 on.
        spacing: Distance of neighbouring points, metres.
        factor: Points along an edge of a voxel.

    Returns:
        float32 [X, Y, Z] and int64 [X, Y, Z]; of labels with equal votes the lowest that a point of the voxel has.

    Raises:
        GridError: The shapes differ or are no multiple of the factor.
    """
    if density.shape != labels.shape or any(size % factor for size in density.shape):
        raise GridError(
            f"shapes {density.shape} and {labels.shape}, {factor} points along a voxel",
            where="points",
            cure="Sample every voxel alike",
        )
    points = _blocks(density.astype(np.float32), factor)
    opacity, owner = -np.expm1(-np.float32(spacing) * points), _blocks(labels, factor)
    most = np.full(points.shape[:3], -1.0, dtype=np.float32)
    winner = np.zeros(points.shape[:3], dtype=np.int64)
    for label in np.unique(labels).tolist():
        own = owner == label
        votes = np.where(own, opacity, np.float32(0.0)).sum(axis=-1)
        ahead = own.any(axis=-1) & (votes > most)
        most[ahead], winner[ahead] = votes[ahead], label
    return np.asarray(points.max(axis=-1), dtype=np.float32), winner


def dilated(volume: NDArray[Any]) -> NDArray[Any]:
    """Largest value of each voxel and its 26 neighbours in a volume [X, Y, Z], density or mask."""
    for axis in range(3):
        grown = volume.copy()
        upper, lower = [slice(None)] * 3, [slice(None)] * 3
        upper[axis], lower[axis] = slice(1, None), slice(None, -1)
        for to, by in ((tuple(upper), tuple(lower)), (tuple(lower), tuple(upper))):
            grown[to] = np.maximum(grown[to], volume[by])
        volume = grown
    return volume


def voxel_classes(
    score: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], cutoff: float, *, dilate: bool = True
) -> NDArray[np.int64]:
    """Label of the voxels that are occupied, 0 for all others.

    Args:
        score: Density or probability [X, Y, Z].
        labels: Label of each voxel, [X, Y, Z]; 0 makes it empty whatever its score.
        cutoff: Smallest score of an occupied voxel.
        dilate: Grow the scores by one voxel in all directions first, as published. Labels do not grow: a voxel that
            becomes occupied by its neighbour keeps its own.

    Returns:
        int64 [X, Y, Z].
    """
    occupied = (dilated(score) if dilate else score) >= cutoff
    return np.where(occupied, labels, EMPTY).astype(np.int64)


def field_of_view(camera: Camera, camera_from_grid: RigidTransform, grid: VoxelGrid) -> NDArray[np.bool_]:
    """Voxels whose centre falls into the image: bool [X, Y, Z].

    Published scores take the calibration of KITTI-360's camera 0 at 1408×376 without the rotation R_rect_00 between
    the raw and the rectified camera.

    Args:
        camera: The camera, at its native size.
        camera_from_grid: From the grid's frame into the optical frame.
        grid: The grid.
    """
    return np.asarray(camera.project(camera_from_grid.apply(grid.centres()))[1], dtype=np.bool_)


def _blocks(volume: NDArray[Any], factor: int) -> NDArray[Any]:
    """Points of each voxel: [X, Y, Z, factor**3]."""
    x, y, z = (size // factor for size in volume.shape)
    split = volume.reshape(x, factor, y, factor, z, factor)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, factor**3)
