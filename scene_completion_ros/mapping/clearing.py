"""Clearing points for costmaps: how far the camera sees through free space in every direction.

Nav2's VoxelLayer clears all that lies on the line from the sensor's origin to each point of a clearing source. A
clearing point is therefore the far end of a ray on which all was seen free, and never lies in or behind anything else:
inferred free space clears nothing. What lies in a ray's way is found voxel by voxel without gaps; a voxel of which the
ray only touches an edge does not count.

This module is the readable reference; ``clearing_kernel`` is its fast twin with the same meaning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import VoxelState

# A shorter way through a voxel, in voxel edges, is a touch.
TOUCH = 1e-6
# A clearing point lies this far before the end of seen free space, in voxel edges: nothing rounds it over.
MARGIN = 0.5


def clearing_rays(
    grid: VoxelGrid, grid_from_camera: RigidTransform, camera: Camera
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rays through the pixel centres of a camera, in voxel edges, where voxel (i, j, k) begins at (i, j, k).

    Args:
        grid: The grid.
        grid_from_camera: Pose of the camera's optical frame in it.
        camera: The camera.

    Returns:
        The camera's position [3], unit vectors [R, 3] in the grid and the same unit vectors [R, 3] in the optical
        frame. Pixels that the lens does not map are left out.
    """
    rays = camera.unproject(camera.pixel_centres()).reshape(-1, 3)
    rays = rays[np.isfinite(rays).all(axis=1)]
    optical = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
    return origin, np.ascontiguousarray(optical @ grid_from_camera.rotation.T), optical


def voxels_along(
    origin: NDArray[np.float64], direction: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The voxels of a grid that a ray passes, in order.

    Args:
        origin: Where the ray begins [3], voxel edges.
        direction: Unit vector [3].
        shape: Number of voxels along x, y, z.

    Returns:
        Where the ray enters and leaves each voxel [N, 2], in voxel edges from its origin, and their indices [N, 3].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = [(np.arange(size + 1) - o) / d for size, o, d in zip(shape, origin, direction, strict=True)]
    moving = [along for along, d in zip(crossings, direction, strict=True) if d != 0.0]
    beside = any(d == 0.0 and not 0.0 <= o < size for size, o, d in zip(shape, origin, direction, strict=True))
    enter = max(0.0, *(along.min() for along in moving))
    leave = min(along.max() for along in moving)
    if beside or leave <= enter:
        return np.zeros((0, 2)), np.zeros((0, 3), dtype=np.int64)
    inner = np.concatenate(moving)
    borders = np.unique(np.concatenate([[enter, leave], inner[(enter < inner) & (inner < leave)]]))
    ways = np.stack([borders[:-1], borders[1:]], axis=1)
    ways = ways[ways[:, 1] - ways[:, 0] > TOUCH]
    return ways, np.floor(origin + ways.mean(axis=1)[:, None] * direction).astype(np.int64)


def free_distances(
    state: NDArray[np.uint8], origin: NDArray[np.float64], direction: NDArray[np.float64], blind: float
) -> NDArray[np.float64]:
    """How far to clear along every ray.

    A ray is followed as long as its voxels were seen free. Near the camera they may also be unobserved: there the ray
    lies in the image, but not the centres of all the voxels that it passes.

    Args:
        state: uint8 [X, Y, Z], values of `VoxelState`.
        origin: The camera [3], voxel edges.
        direction: Unit vectors [R, 3].
        blind: Distance from the camera in which voxels may be unobserved, or lie before the grid, voxel edges.

    Returns:
        Distance of the clearing point from the camera [R], voxel edges, half an edge before the last voxel that was
        seen free ends; 0 where a ray has none.
    """
    distances = np.zeros(len(direction))
    for ray in range(len(direction)):
        ways, index = voxels_along(origin, direction[ray], state.shape)  # type: ignore[arg-type]  # three axes
        met = state[tuple(index.T)]
        free = met == VoxelState.FREE_SEEN
        passed = free | ((met == VoxelState.UNOBSERVED) & (ways[:, 0] <= blind))
        followed = int(np.argmin(np.append(passed, False)))
        if free[:followed].any() and ways[0, 0] <= blind:
            stop = ways[:followed, 1][free[:followed]][-1] - MARGIN
            distances[ray] = stop if stop > ways[0, 0] else 0.0
    return distances
