"""The clearing points of ``clearing``, compiled and run in parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel, kernel_threads
from scene_completion_ros.mapping.clearing import MARGIN, TOUCH, clearing_rays
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

BLIND_ZONE = 2.0
"""Metres before the camera in which unobserved voxels end no ray: in 2 m, a voxel of 0.2 m takes 6 degrees."""

UNOBSERVED, FREE_SEEN = np.uint8(VoxelState.UNOBSERVED), np.uint8(VoxelState.FREE_SEEN)


class ClearingRays:
    """Makes the clearing points of one camera; what depends on camera and grid alone is computed once.

    Args:
        grid: The voxel grid.
        grid_from_camera: Pose of the camera's optical frame in it.
        camera: Its pixels are the rays; `Completion.depth_camera` has those by which voxels were seen or not.
        blind_zone: Distance from the camera in which voxels may be unobserved, or lie before the grid, metres.
        threads: CPU threads; None for all that this process may use.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform,
        camera: Camera,
        *,
        blind_zone: float = BLIND_ZONE,
        threads: int | None = None,
    ) -> None:
        self.grid = grid
        self.threads = threads
        self._origin, self._direction, self._optical = clearing_rays(grid, grid_from_camera, camera)
        self._blind = blind_zone / grid.voxel_size

    def __call__(self, voxels: SemanticVoxels) -> NDArray[np.float32]:
        """Clearing points of one image in the camera's optical frame, metres, float32 [N, 3], N at most one a ray.

        Raises:
            GridError: The voxels are on another grid.
        """
        if voxels.grid != self.grid:
            raise GridError("the voxels are on another grid than the rays", where="ClearingRays")
        with kernel_threads(self.threads):
            distance = free_distances(voxels.state, self._origin, self._direction, self._blind) * self.grid.voxel_size
        clears = distance > 0.0
        return (self._optical[clears] * distance[clears, None]).astype(np.float32)


def free_distances(
    state: NDArray[np.uint8], origin: NDArray[np.float64], direction: NDArray[np.float64], blind: float
) -> NDArray[np.float64]:
    """How far to clear along every ray; see `clearing.free_distances`."""
    distances = np.zeros(len(direction))
    _kernel()(state, origin, direction, float(blind), distances)
    return distances


@inlined
def inside_between(o: Any, d: Any, size: Any) -> Any:
    """Where a ray is between two faces of the grid."""
    if d == 0.0:
        return (0.0, np.inf) if 0.0 <= o < size else (np.inf, 0.0)
    low, high = (0.0 - o) / d, (size - o) / d
    return min(low, high), max(low, high)


@inlined
def first_voxel(o: Any, d: Any, along: Any, size: Any) -> Any:
    """Voxel of a ray just behind a distance, the distance at which it leaves that voxel, and between two voxels."""
    voxel = min(max(int(np.floor(o + d * (along + TOUCH))), 0), size - 1)
    if d == 0.0:
        return voxel, np.inf, np.inf
    return voxel, (voxel + (1.0 if d > 0.0 else 0.0) - o) / d, abs(1.0 / d)


@functools.cache
def _kernel() -> Callable[..., None]:
    @kernel()
    def follow(state: Any, origin: Any, direction: Any, blind: Any, distances: Any) -> None:
        size_x, size_y, size_z = state.shape
        for ray in prange(distances.size):
            d_x, d_y, d_z = direction[ray, 0], direction[ray, 1], direction[ray, 2]
            enter_x, leave_x = inside_between(origin[0], d_x, size_x)
            enter_y, leave_y = inside_between(origin[1], d_y, size_y)
            enter_z, leave_z = inside_between(origin[2], d_z, size_z)
            along = max(max(enter_x, 0.0), max(enter_y, enter_z))
            leave = min(leave_x, min(leave_y, leave_z))
            if not along < leave or along > blind:
                continue
            # Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing" (Eurographics 1987).
            x, next_x, stride_x = first_voxel(origin[0], d_x, along, size_x)
            y, next_y, stride_y = first_voxel(origin[1], d_y, along, size_y)
            z, next_z, stride_z = first_voxel(origin[2], d_z, along, size_z)
            enter, stop = along, 0.0
            while along < leave and 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z:
                border = min(min(next_x, next_y), min(next_z, leave))
                if border - along > TOUCH:
                    found = state[x, y, z]
                    if found == FREE_SEEN:
                        stop = border
                    elif found != UNOBSERVED or along > blind:
                        break
                if next_x <= next_y and next_x <= next_z:
                    x += 1 if d_x > 0.0 else -1
                    next_x += stride_x
                elif next_y <= next_z:
                    y += 1 if d_y > 0.0 else -1
                    next_y += stride_y
                else:
                    z += 1 if d_z > 0.0 else -1
                    next_z += stride_z
                along = max(along, border)
            if stop - MARGIN > enter:
                distances[ray] = stop - MARGIN

    return follow
