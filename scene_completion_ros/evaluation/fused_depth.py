"""Truth of rooms from posed depth images: a truncated signed distance field (Curless and Levoy, SIGGRAPH 1996)."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.evaluation.truth import FREE, UNKNOWN
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.jit import kernel

OCCUPIED = 1
TRUNCATION = 4.0  # voxels: how far before and behind a surface distances count as they are
THICKNESS = 0.75  # voxels to each side of the surface that hold it
LEAST_VIEWS = 2.0


def fuse_depth(
    images: Iterable[tuple[Camera, RigidTransform, NDArray[np.float32]]], grid: VoxelGrid
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fuses camera, world_from_camera and z-depth [H, W], metres, 0 where unknown, on a grid in the world.

    Returns distances to the nearest surface along the rays that saw a place, the mean [X, Y, Z], voxels, positive
    before the surface, at most `TRUNCATION`; and how many images saw it or what is just behind its surface [X, Y, Z].
    """
    total, views = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    for camera, pose, depth in images:
        pixel_from_world = (camera.matrix @ pose.inverse().matrix[:3]).astype(np.float32)
        place = np.asarray(grid.origin, np.float32), np.float32(grid.voxel_size)
        _integrator()(np.ascontiguousarray(depth, np.float32), pixel_from_world, *place, total, views)
    return total / np.maximum(views, np.float32(1.0)), views


def fused_labels(distance: NDArray[np.float32], views: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`FREE`, `OCCUPIED` within `THICKNESS` of a surface, `UNKNOWN` where nobody looked or behind surfaces."""
    label = np.where(distance > THICKNESS, FREE, np.where(distance >= -THICKNESS, OCCUPIED, UNKNOWN))
    return np.where(views >= LEAST_VIEWS, label, UNKNOWN).astype(np.uint8)


def _integrate(depth, p, origin, size, total, views):  # type: ignore[no-untyped-def]
    """Adds one image to sums of distances and counts [X, Y, Z], looking up the pixel of each voxel's centre."""
    height, width = depth.shape
    for i in prange(total.shape[0]):
        x = origin[0] + (i + 0.5) * size
        for j in range(total.shape[1]):
            y = origin[1] + (j + 0.5) * size
            for k in range(total.shape[2]):
                z = origin[2] + (k + 0.5) * size
                away = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                if away <= size:
                    continue
                u = int(np.rint((p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / away))
                v = int(np.rint((p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / away))
                if u < 0 or v < 0 or u >= width or v >= height or depth[v, u] <= 0.0:
                    continue
                before = (depth[v, u] - away) / size
                if before >= -TRUNCATION:
                    total[i, j, k] += min(before, TRUNCATION)
                    views[i, j, k] += 1.0


@cache
def _integrator() -> Any:
    return kernel()(_integrate)


def resampled(
    fine: NDArray[np.uint8], grid: VoxelGrid, wanted: VoxelGrid, grid_from_wanted: RigidTransform
) -> NDArray[np.uint8]:
    """Labels [X, Y, Z] of voxels that are larger than those of a fused grid, and turned against them.

    Each looks up the eight centres of its eighths. One that holds any surface is occupied; one is free where at least
    half of them are free, and no surface is among them.
    """
    occupied, free = np.zeros(wanted.shape, np.bool_), np.zeros(wanted.shape, np.uint8)
    centres = wanted.centres().reshape(-1, 3)
    for offset in np.ndindex(2, 2, 2):
        points = grid_from_wanted.apply(centres + (np.array(offset) - 0.5) * wanted.voxel_size / 2.0)
        index, inside = (np.asarray(part) for part in grid.index_of(points))
        found = np.full(len(points), UNKNOWN, np.uint8)
        found[inside] = fine[tuple(index[inside].T)]
        occupied |= (found == OCCUPIED).reshape(wanted.shape)
        free += (found == FREE).reshape(wanted.shape)
    return np.where(occupied, OCCUPIED, np.where(free >= 4, FREE, UNKNOWN)).astype(np.uint8)
