"""LiDAR scans as depth images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera


def sparse_depth(points_camera: NDArray[np.floating[Any]], camera: Camera) -> NDArray[np.float32]:
    """Project LiDAR points into an image; where several fall into one pixel, the nearest stays.

    Points that the camera cannot see past a nearer surface between the pixels (the LiDAR stands elsewhere) stay in.

    Args:
        points_camera: Points [N, 3] in the camera's optical frame, metres.

    Returns:
        z-depth float32 [H, W], metres, 0 where no point fell.
    """
    pixels, valid = camera.project(points_camera)
    column, row = np.floor(np.asarray(pixels)[np.asarray(valid)] + 0.5).astype(np.int64).T
    depth = np.full((camera.height, camera.width), np.inf, dtype=np.float32)
    np.minimum.at(depth, (row, column), points_camera[np.asarray(valid), 2].astype(np.float32))
    depth[np.isinf(depth)] = 0.0
    return depth
