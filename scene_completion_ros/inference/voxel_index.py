"""Indices of voxels along the axes of a grid, from flat ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.jit import kernel


def axis_indices(flat: NDArray[np.integer], shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """What ``np.unravel_index`` gives of ascending indices, int32 [N, 3], without a division a voxel.

    Args:
        flat: [N] within the grid, ascending.
        shape: X, Y, Z.
    """
    index = np.empty((len(flat), 3), dtype=np.int32)
    _kernel()(flat, shape[1], shape[2], index)
    return index


@functools.cache
def _kernel() -> Callable[..., None]:
    @kernel(parallel=False)
    def fill(flat: Any, count_y: Any, count_z: Any, index: Any) -> None:
        x, y, column = 0, 0, 0  # column: flat index of the voxel (x, y, 0)
        for n in range(len(flat)):
            while flat[n] >= column + count_z:
                column += count_z
                y += 1
                if y == count_y:
                    y = 0
                    x += 1
            index[n, 0], index[n, 1], index[n, 2] = x, y, flat[n] - column

    return fill
