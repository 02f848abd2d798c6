"""A box of voxels that follows the robot through an odometry frame without copying what stays in it.

The voxels of the odometry frame are numbered without end: voxel g reaches from g * edge to (g + 1) * edge along each
axis. The box holds those from `lower` to `lower + shape - 1`. Voxel g lies at `g mod shape` in memory, whatever the box
holds besides. Where the box moves, voxels that stay keep their place. One that enters gets the place of one that
leaves.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

# How much the tilt of a grid may change while driving, radians: slopes, and a vehicle that nods.
LARGEST_TILT = math.radians(3.0)


class RollingGrid:
    """Which voxels of an odometry frame a box of memory holds. `shape`: voxels along x, y, z."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        if min(shape) < 1:
            raise GridError(f"{shape} is not three positive whole numbers", where="RollingGrid.shape")
        self.shape = np.array(shape, dtype=np.int64)  # int64 [3]
        self.lower = np.zeros(3, dtype=np.int64)  # int64 [3], number of the lowest voxel that the box holds

    def move_to(self, lower: NDArray[np.int64]) -> list[tuple[slice, slice, slice]]:
        """Let the box hold the voxels from `lower` on. `lower`: int64 [3].

        Returns the places in memory that now stand for other voxels than before, as disjoint boxes: they are to be
        cleared. All of memory where old and new box have no voxel in common.
        """
        step, self.lower = lower - self.lower, lower.copy()
        if (np.abs(step) >= self.shape).any():
            return [_whole(self.shape)]
        entered: list[tuple[slice, slice, slice]] = []
        kept: list[list[slice]] = [[slice(0, int(size))] for size in self.shape]
        for axis in range(3):
            first = lower[axis] + (self.shape[axis] - step[axis] if step[axis] > 0 else 0)
            new = self._places(axis, int(first), abs(int(step[axis])))
            old = self._places(axis, int(first) + abs(int(step[axis])), int(self.shape[axis]) - abs(int(step[axis])))
            entered += itertools.product(*kept[:axis], new, *kept[axis + 1 :])  # type: ignore[arg-type]  # three slices
            kept[axis] = old
        return entered

    def _places(self, axis: int, first: int, count: int) -> list[slice]:
        """Where `count` voxels along an axis lie in memory, from number `first` on: at most two runs."""
        size = int(self.shape[axis])
        start = first % size
        runs = [slice(start, min(start + count, size)), slice(0, start + count - size)]
        return [run for run in runs if run.stop > run.start]


def covering_shape(grid: VoxelGrid, margin: float = 0.0, tilt: float = LARGEST_TILT) -> tuple[int, int, int]:
    """Shape of a box around the middle of a grid that holds all of it, whatever its heading.

    Args:
        grid: The voxel grid; its z axis is up.
        margin: What the box holds on all four sides besides, metres.
        tilt: Angle up to which its z axis may differ from that of the odometry frame, radians. Of grids that are tilted
            more, the outermost voxels lie outside of the box: nothing is remembered there.
    """
    x, y, z = grid.shape
    across = math.hypot(x, y)
    height = z * math.cos(tilt) + across * math.sin(tilt)
    wide, high = (math.ceil(length) + 2 for length in (math.hypot(across, z * math.sin(tilt)), height))
    wide += 2 * math.ceil(margin / grid.voxel_size)
    return wide, wide, high


def places_of(boxes: Iterable[tuple[slice, slice, slice]]) -> int:
    """How many voxels boxes hold."""
    return sum(math.prod(side.stop - side.start for side in box) for box in boxes)


def lower_around(grid: VoxelGrid, odometry_from_grid: RigidTransform, shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lowest voxel of the box of a shape, int64 [3], whose middle is the middle of a grid."""
    middle = np.asarray(grid.origin) + 0.5 * grid.voxel_size * np.asarray(grid.shape)
    numbered: NDArray[np.float64] = np.floor(odometry_from_grid.apply(middle) / grid.voxel_size)
    return numbered.astype(np.int64) - shape // 2


def _whole(shape: NDArray[np.int64]) -> tuple[slice, slice, slice]:
    x, y, z = (slice(0, int(size)) for size in shape)
    return x, y, z
