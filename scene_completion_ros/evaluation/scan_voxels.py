"""Voxels that one LiDAR scan knows: free where its rays pass, occupied where they return, and unknown otherwise."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.truth import FREE, UNKNOWN
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.jit import kernel

OCCUPIED = 1
STEP_M = 0.3  # between the places along a ray that are free
MARGIN_M = 0.6  # before the return, where nothing is known to be free: rays graze what they hit


def scan_labels(points: NDArray[np.floating[Any]], sensor: NDArray[np.float64], grid: VoxelGrid) -> NDArray[np.uint8]:
    """Labels [X, Y, Z] of one scan: `OCCUPIED` where anything returned, otherwise `FREE` where a ray passed, `UNKNOWN`.

    `points`: returns [N, 3] in the grid's frame, metres; `sensor`: where the LiDAR stands there [3].
    """
    labels = np.full(grid.shape, UNKNOWN, np.uint8)
    place = np.asarray(sensor, np.float64), np.asarray(grid.origin), grid.voxel_size
    _marcher()(np.ascontiguousarray(points, np.float64), *place, labels)
    cells, inside = grid.index_of(np.asarray(points, np.float64))
    labels[tuple(cells[inside].T)] = OCCUPIED
    return labels


def _march(points, sensor, origin, size, labels):  # type: ignore[no-untyped-def]
    """Marks the voxels of places along the rays as free."""
    start = (sensor - origin) / size
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - sensor[0], points[i, 1] - sensor[1], points[i, 2] - sensor[2]
        length = np.sqrt(x * x + y * y + z * z)
        for number in range(1, int(np.floor((length - MARGIN_M) / STEP_M + 1e-9)) + 1):
            share = number * STEP_M / (length * size)
            a, b, c = start[0] + share * x, start[1] + share * y, start[2] + share * z
            if 0.0 <= a < labels.shape[0] and 0.0 <= b < labels.shape[1] and 0.0 <= c < labels.shape[2]:
                labels[int(a), int(b), int(c)] = FREE


@cache
def _marcher() -> Any:
    return kernel(parallel=False)(_march)
