"""Voxels as plain points, by default in the camera's optical frame: obstacles, and free space that was seen."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


def obstacle_points(
    voxels: SemanticVoxels, frame_from_grid: RigidTransform | None = None, *, ignored: Iterable[int] = ()
) -> NDArray[np.float32]:
    """Centres of the occupied voxels, seen and completed. Returns points, metres, float32 [N, 3].

    `frame_from_grid`: pose of the grid in the frame of the points; None for the camera's optical frame; `ignored`:
    labels of classes that are no obstacles (see `ground_map.ignored_labels`).
    """
    points = voxels.points_camera() if frame_from_grid is None else voxels.points_in(frame_from_grid)
    return points[~np.isin(voxels.label, np.fromiter(ignored, dtype=np.uint8))]


def seen_free_cubes(
    voxels: SemanticVoxels, edge: int, frame_from_grid: RigidTransform | None = None
) -> NDArray[np.float32]:
    """Centres of cubes that were seen free throughout. Returns points, metres, float32 [N, 3].

    Args:
        edge: Voxels along an edge of a cube. Larger cubes make fewer points and leave out what lies beside obstacles;
            cubes that do not fit into the grid are left out too.
        frame_from_grid: Pose of the grid in the frame of the points; None for the camera's optical frame.
    """
    free = voxels.state == VoxelState.FREE_SEEN
    for axis in range(3):
        whole = np.moveaxis(free, axis, 0)[: free.shape[axis] // edge * edge]
        free = np.moveaxis(np.logical_and.reduce([whole[first::edge] for first in range(edge)]), 0, axis)
    centres = np.asarray(voxels.grid.origin) + (np.argwhere(free) + 0.5) * (edge * voxels.grid.voxel_size)
    frame_from_grid = frame_from_grid or voxels.grid_from_camera.inverse()
    points: NDArray[np.float64] = frame_from_grid.apply(centres)
    return points.astype(np.float32)
