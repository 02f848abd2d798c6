"""Rays of a camera through a voxel grid, which are marched in steps of one voxel edge."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Doubles
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

# The rays of the march are pixels of about this focal length, or those of the network's image where it is smaller yet.
# At 36 m neighbours are a voxel of 0.2 m apart. What counts as seen depends on them.
RAY_FOCAL = 180.0


def ray_camera(canonical: Camera) -> Camera:
    """The camera whose pixels are marched along, for a canonical one."""
    stride = max(1, round(canonical.fx / RAY_FOCAL))
    return canonical.resized(canonical.width // stride, canonical.height // stride)


@dataclass(frozen=True, eq=False)
class GridRays:
    """Rays of a camera in voxel coordinates of a grid, where a step of one voxel edge has length 1."""

    origin: Doubles  # camera centre [3]; voxel (i, j, k) is the box from (i, j, k) to (i + 1, j + 1, k + 1)
    direction: Doubles  # unit vectors [R, 3]
    cosine: Doubles  # [R], z-depth of a point = its distance times this
    first: NDArray[np.int32]  # [R] int32, first step inside the grid
    stop: NDArray[np.int32]  # [R] int32, one after the last step inside; equal to ``first`` for rays that miss
    leave: Doubles  # [R], distance at which the ray leaves, metres


def grid_rays(grid: VoxelGrid, camera_from_grid: RigidTransform, camera: Camera) -> GridRays:
    """Rays through the pixel centres of a camera, row by row, in the voxel coordinates of a grid."""
    grid_from_camera = camera_from_grid.inverse()
    rays = camera.unproject(camera.pixel_centres()).reshape(-1, 3)
    length = np.linalg.norm(rays, axis=1)
    direction = (rays / length[:, None]) @ grid_from_camera.rotation.T
    direction = np.where(np.isfinite(direction), direction, 0.0)  # pixels that a fisheye lens does not see
    origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low = (0.0 - origin) / direction
        to_high = (np.asarray(grid.shape) - origin) / direction
    enter = np.fmax.reduce(np.fmin(to_low, to_high), axis=1)
    leave = np.fmin.reduce(np.fmax(to_low, to_high), axis=1)
    parallel_outside = np.any((direction == 0.0) & ((origin < 0.0) | (origin >= np.asarray(grid.shape))), axis=1)
    hit = (leave > np.maximum(enter, 0.0)) & ~parallel_outside & np.any(direction != 0.0, axis=1)
    first = np.where(hit, np.ceil(np.maximum(enter, 0.0) - 0.5), 0.0)
    stop = np.where(hit, np.maximum(np.ceil(leave - 0.5), first), first)
    steps = np.maximum(first, 0.0).astype(np.int32), stop.astype(np.int32)
    return GridRays(origin, direction, 1.0 / length, *steps, np.where(hit, leave, np.nan) * grid.voxel_size)
