"""Marching the camera's rays through predicted voxels: transmittance, depth and the state of every voxel.

This module is the readable reference; ``march_kernel`` is its fast twin with the same meaning. Rays advance in steps of
one voxel edge, at distances (i + 1/2) delta from the camera, and read the voxel they are in. With T_0 = 1,

    w_i = T_i alpha_i,    T_{i+1} = T_i (1 - alpha_i)        (Max 1995, emission-absorption)

Depth and transmittance are made of alpha as the network gives it. alpha is no probability, though: training by
rendering leaves surfaces at 0.05 to 0.3, and a wall of three such voxels would let most of a ray through. All that is
published or thresholded is the calibrated probability, and the states of voxels follow it: for them an occupied voxel
(calibrated probability at or above the threshold) is opaque,

    T_state,i+1 = T_state,i (1 - alpha_i) for a free voxel,    0 for an occupied one

so that nothing behind an occupied voxel is ever taken for seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import VoxelState

# A ray ends where less than this part of it is left; the rest counts as ending there too.
SPENT = 1e-3
# A voxel is seen where at least this part of the ray reaches it: T_state >= 0.5.
SEEN = 0.5


@dataclass(frozen=True, eq=False)
class MarchResult:
    """What the rays of a camera met in the grid.

    Attributes:
        depth: float32 [h, w], expected termination as z-depth in metres. What is left of a ray that leaves the grid
            counts as ending where it leaves; ``transmittance`` says how much that was. NaN for rays that miss the grid.
        half_distance: float32 [h, w], distance along the ray, metres, of the first step after which T_state < 0.5: the
            first one in an occupied voxel, unless free ones have taken half of the ray before. Infinite where there is
            none.
        transmittance: float32 [h, w], T where the ray left the grid (0 for spent rays, 1 for rays that miss the grid).
    """

    depth: NDArray[np.float32]
    half_distance: NDArray[np.float32]
    transmittance: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class GridRays:
    """Rays of a camera in voxel coordinates of a grid, where a step of one voxel edge has length 1.

    Attributes:
        origin: Camera centre [3]; voxel (i, j, k) is the box from (i, j, k) to (i + 1, j + 1, k + 1).
        direction: Unit vectors [R, 3].
        cosine: [R], z-depth of a point = its distance times this.
        first: [R] int32, first step inside the grid.
        stop: [R] int32, one after the last step inside; equal to ``first`` for rays that miss.
        leave: [R], distance at which the ray leaves, metres.
    """

    origin: NDArray[np.float64]
    direction: NDArray[np.float64]
    cosine: NDArray[np.float64]
    first: NDArray[np.int32]
    stop: NDArray[np.int32]
    leave: NDArray[np.float64]


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
    return GridRays(
        origin=origin,
        direction=direction,
        cosine=1.0 / length,
        first=np.maximum(first, 0.0).astype(np.int32),
        stop=stop.astype(np.int32),
        leave=np.where(hit, leave, np.nan) * grid.voxel_size,
    )


def march(
    alpha: NDArray[np.floating],
    occupied: NDArray[np.bool_],
    grid: VoxelGrid,
    camera_from_grid: RigidTransform,
    camera: Camera,
) -> MarchResult:
    """Marches all rays of a camera, one step of all rays at a time.

    Args:
        alpha: [X, Y, Z], opacity of each voxel over one voxel edge.
        occupied: bool [X, Y, Z], calibrated probability at or above the threshold: opaque to ``half_distance``.
        grid: The grid.
        camera_from_grid: Its pose; any rigid transform, the camera may stand anywhere.
        camera: Camera whose pixels are the rays; its optical frame is that of ``camera_from_grid``.
    """
    rays = grid_rays(grid, camera_from_grid, camera)
    count = len(rays.first)
    transmittance, distance = np.ones(count), np.zeros(count)
    transmittance_state = np.ones(count)
    half_distance = np.full(count, np.inf)
    last = np.asarray(grid.shape) - 1
    for step in range(int(rays.first.min()), int(rays.stop.max())):
        active = np.flatnonzero((rays.first <= step) & (step < rays.stop) & (transmittance >= SPENT))
        along = (step + 0.5) * grid.voxel_size
        position = rays.origin + (step + 0.5) * rays.direction[active]
        index = np.clip(np.floor(position).astype(np.int64), 0, last)
        opacity = alpha[index[:, 0], index[:, 1], index[:, 2]]
        opaque = occupied[index[:, 0], index[:, 1], index[:, 2]]
        distance[active] += transmittance[active] * opacity * along
        transmittance[active] *= 1.0 - opacity
        transmittance_state[active] *= np.where(opaque, 0.0, 1.0 - opacity)
        # "Not at least" instead of "less": behind a NaN nothing is seen.
        turned = active[~(transmittance_state[active] >= SEEN) & np.isinf(half_distance[active])]
        half_distance[turned] = along
        spent = active[transmittance[active] < SPENT]
        distance[spent] += transmittance[spent] * along
        transmittance[spent] = 0.0
    distance += transmittance * np.where(transmittance > 0.0, rays.leave, 0.0)
    distance[rays.first == rays.stop] = np.nan
    shape = (camera.height, camera.width)
    return MarchResult(
        depth=(distance * rays.cosine).astype(np.float32).reshape(shape),
        half_distance=half_distance.astype(np.float32).reshape(shape),
        transmittance=transmittance.astype(np.float32).reshape(shape),
    )


def nearest_ray(points: NDArray[np.float64], camera: Camera) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the ray nearest to points [N, 3] in the optical frame, clamped to the image."""
    depth = np.maximum(points[:, 2], 1e-6)
    column = np.floor(camera.fx * points[:, 0] / depth + camera.cx + 0.5)
    row = np.floor(camera.fy * points[:, 1] / depth + camera.cy + 0.5)
    return (
        np.clip(row, 0, camera.height - 1).astype(np.int64),
        np.clip(column, 0, camera.width - 1).astype(np.int64),
    )


def farthest_of_four(
    half_distance: NDArray[np.float32], points: NDArray[np.float64], camera: Camera
) -> NDArray[np.float32]:
    """Largest half distance of the four rays around points [N, 3] in the optical frame, clamped to the image."""
    depth = np.maximum(points[:, 2], 1e-6)
    column = np.floor(camera.fx * points[:, 0] / depth + camera.cx).astype(np.int64)
    row = np.floor(camera.fy * points[:, 1] / depth + camera.cy).astype(np.int64)
    far = np.zeros(len(points), dtype=np.float32)
    for rows in (row, row + 1):
        for columns in (column, column + 1):
            r, c = np.clip(rows, 0, camera.height - 1), np.clip(columns, 0, camera.width - 1)
            far = np.maximum(far, half_distance[r, c])
    return far


def states(
    occupied: NDArray[np.bool_],
    in_view: NDArray[np.bool_],
    half_distance: NDArray[np.float32],
    grid: VoxelGrid,
    camera_from_grid: RigidTransform,
    camera: Camera,
) -> NDArray[np.uint8]:
    """State of every voxel (`VoxelState`), by whether a ray reaches it with T_state >= 0.5.

    A free voxel is seen if its centre lies no farther than half a voxel beyond the half distance of the nearest ray:
    strict, because seen free space clears costmaps. An occupied voxel is also seen if a ray reaches one of its faces
    that are turned to the camera: rays that graze a road enter it a metre before its voxels' centres.

    Args:
        occupied: bool [X, Y, Z], calibrated probability at or above the threshold.
        in_view: bool [X, Y, Z], everything else is unobserved.
        half_distance: [h, w] of `march` with the same ``occupied``.
        grid: The grid.
        camera_from_grid: Its pose.
        camera: The ray camera of `march`, without distortion.

    Returns:
        uint8 [X, Y, Z].
    """
    index = np.argwhere(in_view)
    centres_grid = np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size
    centres = camera_from_grid.apply(centres_grid)
    distance = np.linalg.norm(centres, axis=1)
    seen = distance <= half_distance[nearest_ray(centres, camera)] + 0.5 * grid.voxel_size
    is_occupied = occupied[in_view]
    camera_in_grid = camera_from_grid.inverse().translation
    for axis in range(3):
        offset = camera_in_grid[axis] - centres_grid[:, axis]
        turned = is_occupied & (np.abs(offset) > 0.5 * grid.voxel_size)
        faces = centres_grid[turned]
        faces[:, axis] += np.sign(offset[turned]) * 0.5 * grid.voxel_size
        points = camera_from_grid.apply(faces)
        reached = np.linalg.norm(points, axis=1) <= farthest_of_four(half_distance, points, camera)
        seen[turned] |= reached & (points[:, 2] > 0.0)
    state = np.zeros(grid.shape, dtype=np.uint8)
    occupied_state = np.where(seen, VoxelState.SURFACE, VoxelState.COMPLETED)
    free_state = np.where(seen, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    state[in_view] = np.where(is_occupied, occupied_state, free_state)
    return state
