"""Clearing points for costmaps: how far the camera sees through free space in every direction.

Nav2's VoxelLayer clears all that lies on the line from the sensor's origin to each point of a clearing source. A
clearing point is therefore the far end of a ray on which all was seen free, and never lies in or behind anything else.
Inferred free space clears nothing. The ray is followed voxel by voxel without gaps. A voxel of which the ray only
touches an edge does not count.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import prange

from scene_completion_ros.arrays import Bytes, Doubles, Floats
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import inlined, kernel, kernel_threads
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

# A shorter way through a voxel, in voxel edges, is a touch.
TOUCH = 1e-6
# A clearing point lies this far before the end of seen free space, in voxel edges: nothing rounds it over.
MARGIN = 0.5
# Voxel edges before the camera within which unobserved voxels, or those before the grid, end no ray: a voxel takes more
# than 6 degrees there.
BLIND_ZONE = 10.0

UNOBSERVED, FREE_SEEN = np.uint8(VoxelState.UNOBSERVED), np.uint8(VoxelState.FREE_SEEN)


class ClearingRays:
    """Makes the clearing points of one camera; what depends on camera and grid alone is computed once.

    `camera`: its pixels are the rays; `Completion.depth_camera` has those by which voxels were seen or not; `threads`:
    of the CPU, None for all that this process may use.
    """

    def __init__(self, grid: VoxelGrid, grid_from_camera: RigidTransform, camera: Camera, threads: int | None) -> None:
        self.grid, self.threads = grid, threads
        # The camera's position [3], in voxel edges, where voxel (i, j, k) begins at (i, j, k).
        self._origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
        rays = camera.unproject(camera.pixel_centres()).reshape(-1, 3)
        rays = rays[np.isfinite(rays).all(axis=1)]  # without the pixels that the lens does not map
        # Unit vectors [R, 3] in the optical frame, and in the grid.
        self._optical: Doubles = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        self._direction = np.ascontiguousarray(self._optical @ grid_from_camera.rotation.T)

    def __call__(self, voxels: SemanticVoxels) -> Floats:
        """Clearing points of one image in the camera's optical frame, metres, float32 [N, 3], N at most one a ray."""
        assert voxels.grid == self.grid
        with kernel_threads(self.threads):
            distance = free_distances(voxels.state, self._origin, self._direction, BLIND_ZONE) * self.grid.voxel_size
        clears = distance > 0.0
        return (self._optical[clears] * distance[clears, None]).astype(np.float32)


def free_distances(state: Bytes, origin: Doubles, direction: Doubles, blind: float) -> Doubles:
    """How far to clear along every ray.

    A ray is followed as long as its voxels were seen free. Near the camera they may also be unobserved. There the ray
    lies in the image, but not the centres of all the voxels that it passes. Returns distance of the clearing point from
    the camera [R], voxel edges. It is half an edge before the last voxel that was seen free ends, and 0 where a ray has
    none. `state`: uint8 [X, Y, Z], values of `VoxelState`; `origin`: the camera [3], voxel edges; `direction`: unit
    vectors [R, 3]; `blind`: distance from the camera in which voxels may be unobserved, or lie before the grid, edges.
    """
    distances = np.zeros(len(direction))
    _follow(state, origin, direction, float(blind), distances)
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


@kernel()
def _follow(state: Any, origin: Any, direction: Any, blind: Any, distances: Any) -> None:
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


def obstacle_points(
    voxels: SemanticVoxels, frame_from_grid: RigidTransform | None = None, *, ignored: Iterable[int] = ()
) -> Floats:
    """Centres of the occupied voxels, seen and completed. Returns points, metres, float32 [N, 3].

    `frame_from_grid`: pose of the grid in the frame of the points; None for the camera's optical frame; `ignored`:
    labels of classes that are no obstacles (see `ground_map.ignored_labels`).
    """
    kept = np.flatnonzero(~np.isin(voxels.label, np.fromiter(ignored, dtype=np.uint8)))
    names = ("index", "probability", "label", "confidence")
    obstacles = replace(voxels, **{name: getattr(voxels, name).take(kept, axis=0) for name in names})
    return obstacles.points_camera() if frame_from_grid is None else obstacles.points_in(frame_from_grid)


def seen_free_cubes(voxels: SemanticVoxels, edge: int, frame_from_grid: RigidTransform | None = None) -> Floats:
    """Centres of cubes that were seen free throughout. Returns points, metres, float32 [N, 3].

    `edge`: voxels along an edge of a cube. Larger cubes make fewer points and leave out what lies next to obstacles;
    cubes that do not fit into the grid are left out too. `frame_from_grid`: pose of the grid in the frame of the
    points; None for the camera's optical frame.
    """
    free = voxels.state == VoxelState.FREE_SEEN
    for axis in range(3):
        whole = np.moveaxis(free, axis, 0)[: free.shape[axis] // edge * edge]
        free = np.moveaxis(np.logical_and.reduce([whole[first::edge] for first in range(edge)]), 0, axis)
    centres = np.asarray(voxels.grid.origin) + (np.argwhere(free) + 0.5) * (edge * voxels.grid.voxel_size)
    frame_from_grid = frame_from_grid or voxels.grid_from_camera.inverse()
    points: Doubles = frame_from_grid.apply(centres)
    return points.astype(np.float32)
