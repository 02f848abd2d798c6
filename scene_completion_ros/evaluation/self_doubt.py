"""What tells without labels that a completion is poor: its own probabilities, and what the next images see.

Both are cheap enough for a robot that drives. Neither is a measure of quality: both find moments worth recording.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

# Distance from the later camera up to which voxels are compared: farther away its depth is off by many of them.
REACH_M = 25.6
MOST_POINTS = 10_000  # voxels that are compared, spread evenly over all that there are


def unsure_share(voxels: SemanticVoxels) -> float:
    """Share of its occupied voxels that a completion expects to be free: the mean of 1 - p, 0 if none is occupied."""
    return float(1.0 - voxels.probability.mean(dtype=np.float64)) if len(voxels) else 0.0


def wrong_share(then: SemanticVoxels, now: SemanticVoxels, now_from_then: RigidTransform) -> float:
    """Share of what an earlier completion called occupied that a later image, from a place farther on, sees through.

    An earlier occupied voxel is confirmed where the later image sees a surface in the voxel there or one beside it. It
    is wrong where that image sees through all 27 of them. Of others nothing is known. The share is 0 where nothing is
    known at all. Surfaces that the earlier one had missed do not count: on drives with stereo, their share was the
    smaller the worse the completion. `then`: of the earlier image; `now`: of the later image; `now_from_then`: pose of
    the earlier grid in the later one.
    """
    points = then.points_in(now_from_then)
    near = points[np.linalg.norm(points - now.grid_from_camera.translation, axis=1) < REACH_M]
    around = _states_around(now, near[:: max(1, math.ceil(len(near) / MOST_POINTS))])
    wrong = np.count_nonzero((around == VoxelState.FREE_SEEN).all(axis=1))
    confirmed = np.count_nonzero((around == VoxelState.SURFACE).any(axis=1))
    return float(wrong / (wrong + confirmed)) if wrong + confirmed else 0.0


def _states_around(voxels: SemanticVoxels, points: NDArray[np.floating]) -> NDArray[np.uint8]:
    """States [M, 27] in and around the voxels of points [N, 3] of the grid, without those in its outermost ones."""
    grid = voxels.grid
    index = np.floor((points - np.asarray(grid.origin)) / grid.voxel_size).astype(np.int64)
    index = index[((index >= 1) & (index < np.asarray(grid.shape) - 1)).all(axis=1)]
    _, columns, layers = grid.shape
    around = [(x * columns + y) * layers + z for x, y, z in itertools.product((-1, 0, 1), repeat=3)]
    flat = (index[:, 0] * columns + index[:, 1]) * layers + index[:, 2]
    found: NDArray[np.uint8] = voxels.state.reshape(-1)[flat[:, None] + np.asarray(around)]
    return found
