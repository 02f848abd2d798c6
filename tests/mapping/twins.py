"""The readable twins of the kernels of maps, for the tests that feed both."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.mapping.clearing import MARGIN, TOUCH
from scene_completion_ros.mapping.ground_map import FREE, OCCUPIED, UNKNOWN
from scene_completion_ros.voxels.semantic_voxels import VoxelState


def voxels_along(origin, direction, shape) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The voxels of a grid that a ray passes, in order.

    `origin`: where the ray begins [3], voxel edges; `direction`: unit vector [3]; `shape`: number of voxels along x, y,
    z. Returns where the ray enters and leaves each voxel [N, 2], in voxel edges from its origin, and their indices [N,
    3].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = [(np.arange(size + 1) - o) / d for size, o, d in zip(shape, origin, direction, strict=True)]
    moving = [along for along, d in zip(crossings, direction, strict=True) if d != 0.0]
    misses = any(d == 0.0 and not 0.0 <= o < size for size, o, d in zip(shape, origin, direction, strict=True))
    enter = max(0.0, *(along.min() for along in moving))
    leave = min(along.max() for along in moving)
    if misses or leave <= enter:
        return np.zeros((0, 2)), np.zeros((0, 3), dtype=np.int64)
    inner = np.concatenate(moving)
    borders = np.unique(np.concatenate([[enter, leave], inner[(enter < inner) & (inner < leave)]]))
    ways = np.stack([borders[:-1], borders[1:]], axis=1)
    ways = ways[ways[:, 1] - ways[:, 0] > TOUCH]
    return ways, np.floor(origin + ways.mean(axis=1)[:, None] * direction).astype(np.int64)


def free_distances_reference(state, origin, direction, blind) -> NDArray[np.float64]:
    """See `clearing.free_distances`."""
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


def ground_cells_reference(voxels, upright_from_grid, band, ground, ignored, height) -> NDArray[np.int8]:
    """The cells of a `GroundMap` above ground of one height, by points in the middle of its cells and of voxels."""
    grid, size, state = voxels.grid, voxels.grid.voxel_size, voxels.state.copy()
    passable = np.isin(voxels.label, ignored)
    at = tuple(voxels.index[passable].T)
    state[at] = np.where(state[at] == VoxelState.SURFACE, VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED)
    corners = np.array(grid.origin) + np.argwhere(np.ones((2, 2, 2))) * np.array(grid.shape) * size
    # Levels one voxel apart, from the lowest corner of the grid on.
    levels = np.arange(upright_from_grid.apply(corners)[:, 2].min() + size / 2, band[1] + 1e-6, size)
    y, x = (np.indices(ground.cells.shape) + 0.5) * size + np.reshape(ground.origin[::-1], (2, 1, 1))
    above = levels[levels >= band[0] - 1e-6][:, None, None] + height
    points = np.stack(np.broadcast_arrays(x, y, above), axis=-1)
    index, inside = grid.index_of(upright_from_grid.inverse().apply(points))
    index = np.where(inside[..., None], index, 0)
    found = np.where(inside, state[index[..., 0], index[..., 1], index[..., 2]], VoxelState.UNOBSERVED)
    cells = np.where((found == VoxelState.FREE_SEEN).all(axis=0), FREE, UNKNOWN).astype(np.int8)
    cells[(found >= VoxelState.SURFACE).any(axis=0)] = OCCUPIED
    points = upright_from_grid.apply(voxels.points_grid()[~passable].astype(np.float64))
    points = points[np.abs(points[:, 2] - height - np.mean(band)) <= np.ptp(band) / 2 + 1e-6]
    column, row = np.floor((points[:, :2] - ground.origin) / size).astype(int).T
    cells[row, column] = OCCUPIED
    return cells
