"""Which voxels of a ground truth a camera sees, and which lie behind obstacles. No model takes part.

The straight line from the camera to the centre of a voxel alone is too strict a test. At a grazing angle it runs
through metres of the ground's own voxels, and 95 % of the occupied voxels of a street count as hidden. Here a voxel is
seen if the line to its centre, or to that of one of its six faces, passes no other occupied voxel. An occupied voxel is
visible also where it touches (26 neighbours) a seen voxel that is not occupied. Of the voxels that a LiDAR beside the
camera hits, three in four are then visible; the rest are mostly foliage. Voxels of unknown content are transparent.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import VoxelGrid

_FACE = 0.5 + 1e-4  # just outside the voxel, so that the line to a face does not slip through the voxel's neighbours
SIGHT_POINTS = np.concatenate([np.zeros((1, 3)), _FACE * np.eye(3), -_FACE * np.eye(3)])  # [7, 3], voxels


def seen_voxels(
    occupied: NDArray[np.bool_],  # ground truth, bool [X, Y, Z]
    # Optical centre in the grid frame, float64 [3], metres. It may lie outside the grid.
    camera_position: NDArray[np.float64],
    grid: VoxelGrid,
    wanted: NDArray[np.bool_],  # voxels to look at, bool [X, Y, Z]; the others are reported as not seen
) -> NDArray[np.bool_]:
    """Voxels [X, Y, Z] to whose centre or face centres a line from the camera passes no other occupied voxel."""
    start = (camera_position - np.asarray(grid.origin)) / grid.voxel_size
    return np.asarray(_seen(np.ascontiguousarray(occupied), np.ascontiguousarray(wanted), start), dtype=bool)


def visible_voxels(
    occupied: NDArray[np.bool_], camera_position: NDArray[np.float64], grid: VoxelGrid, wanted: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels that count as visible: the seen ones, and occupied ones that touch a seen voxel that is not occupied.

    All others lie behind obstacles. Arguments and result as in `seen_voxels`.
    """
    seen = seen_voxels(occupied, camera_position, grid, wanted | grown(wanted & occupied))
    return (seen | (occupied & grown(seen & ~occupied))) & wanted


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask [X, Y, Z] and its 26 neighbours."""
    for axis in range(3):
        padded = np.pad(mask, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        size = mask.shape[axis]
        lower, upper = (padded.take(np.arange(shift, shift + size), axis=axis) for shift in (0, 2))
        mask = mask | lower | upper
    return mask


def _line_is_blocked(
    occupied: NDArray[np.bool_],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    own: tuple[int, int, int],
    integers: NDArray[np.int64],
    numbers: NDArray[np.float64],
) -> bool:
    """Walk from voxel to voxel along a line (in units of voxels) until it leaves the grid or reaches `end` or `own`.

    Amanatides and Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing" (Eurographics 1987). `integers` and `numbers`
    [2, 3] are scratch space: allocating it for every line would take most of the time.
    """
    first, last = 0.0, 1.0  # the part of the line inside the grid
    for axis in range(3):
        size = occupied.shape[axis]
        direction = end[axis] - start[axis]
        if direction == 0.0:
            if not 0.0 <= start[axis] < size:
                return False
        else:
            low, high = -start[axis] / direction, (size - start[axis]) / direction
            first, last = max(first, min(low, high)), min(last, max(low, high))
    if first >= last:
        return False
    voxel, step = integers[0], integers[1]
    crossing, stride = numbers[0], numbers[1]  # where the line leaves the voxel along each axis, as its fraction
    for axis in range(3):
        direction = end[axis] - start[axis]
        position = int(np.floor(start[axis] + direction * first))
        step[axis] = 1 if direction > 0.0 else -1
        # A line that enters through the upper face starts on the far side of the last voxel.
        voxel[axis] = min(max(position, 0), occupied.shape[axis] - 1)
        border = voxel[axis] + (1 if direction > 0.0 else 0)
        crossing[axis] = (border - start[axis]) / direction if direction != 0.0 else np.inf
        stride[axis] = abs(1.0 / direction) if direction != 0.0 else np.inf
    while not (voxel[0] == own[0] and voxel[1] == own[1] and voxel[2] == own[2]):
        if occupied[voxel[0], voxel[1], voxel[2]]:
            return True
        axis = 0
        if crossing[1] < crossing[axis]:
            axis = 1
        if crossing[2] < crossing[axis]:
            axis = 2
        if crossing[axis] >= last:
            return False
        crossing[axis] += stride[axis]
        voxel[axis] += step[axis]
        if not 0 <= voxel[axis] < occupied.shape[axis]:
            return False
    return False


def _seen_everywhere(
    occupied: NDArray[np.bool_], wanted: NDArray[np.bool_], start: NDArray[np.float64]
) -> NDArray[np.bool_]:
    seen = np.zeros(occupied.shape, dtype=np.bool_)
    end, integers, numbers = np.empty(3), np.empty((2, 3), dtype=np.int64), np.empty((2, 3))
    for i in range(occupied.shape[0]):
        for j in range(occupied.shape[1]):
            for k in range(occupied.shape[2]):
                if not wanted[i, j, k]:
                    continue
                for point in SIGHT_POINTS:
                    end[0], end[1], end[2] = i + 0.5 + point[0], j + 0.5 + point[1], k + 0.5 + point[2]
                    if not _blocked(occupied, start, end, (i, j, k), integers, numbers):
                        seen[i, j, k] = True
                        break
    return seen


_blocked = numba.njit(_line_is_blocked)  # compiled at the first call
_seen = numba.njit(_seen_everywhere)
