"""Compact bytes of voxels and LiDAR points for the viewer of the HTML report."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

LIDAR_RESOLUTION = 0.02  # metres
_MOST_LIDAR_POINTS = 40_000


def _byte_planes(values: NDArray[np.uint32] | NDArray[np.uint16]) -> bytes:
    """All lowest bytes first, then all second bytes, …: compresses far better than interleaved bytes."""
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return little_endian.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def pack_voxels(voxels: SemanticVoxels) -> bytes:
    """Occupied voxels as zlib-compressed planes.

    Args:
        voxels: Completed voxels with N occupied ones.

    Returns:
        Compressed bytes of: four planes [N] of the differences between successive flat indices ((x·Y + y)·Z + z,
        ascending), then the labels [N], the states [N], and the probabilities times 255 [N].
    """
    _, size_y, size_z = voxels.grid.shape
    index = voxels.index.astype(np.int64)
    flat = (index[:, 0] * size_y + index[:, 1]) * size_z + index[:, 2]
    order = np.argsort(flat, kind="stable")
    steps = np.diff(flat[order], prepend=0).astype(np.uint32)
    probability = np.rint(np.clip(voxels.probability[order], 0.0, 1.0) * 255.0).astype(np.uint8)
    state = voxels.state[tuple(voxels.index[order].T)]
    planes = [_byte_planes(steps), voxels.label[order].tobytes(), state.tobytes(), probability.tobytes()]
    return zlib.compress(b"".join(planes), 6)


def pack_lidar(points_grid: NDArray[np.float32], voxels: SemanticVoxels) -> bytes:
    """LiDAR points inside the grid's box, thinned, as zlib-compressed planes.

    Args:
        points_grid: Points in the grid frame, metres [M, 3].
        voxels: Completed voxels whose grid bounds the points.

    Returns:
        Compressed bytes of six planes [K] (x low, x high, y low, …): distance from the grid's origin in steps of
        ``LIDAR_RESOLUTION`` as uint16.
    """
    origin = np.asarray(voxels.grid.origin)
    extent = np.asarray(voxels.grid.shape) * voxels.grid.voxel_size
    points = np.asarray(points_grid, dtype=np.float64).reshape(-1, 3) - origin
    limit = np.minimum(extent, 65535 * LIDAR_RESOLUTION)
    points = points[((points >= 0.0) & (points < limit)).all(axis=1)]
    points = points[:: max(1, -(-len(points) // _MOST_LIDAR_POINTS))]
    steps = np.floor(points / LIDAR_RESOLUTION).astype(np.uint16)
    return zlib.compress(b"".join(_byte_planes(np.ascontiguousarray(column)) for column in steps.T), 6)
