"""Depth images: made of LiDAR points, and looked up from another camera at the same place."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera


def sparse_depth(points_camera: NDArray[np.floating[Any]], camera: Camera) -> NDArray[np.float32]:
    """Project LiDAR points into an image; where several fall into one pixel, the nearest stays.

    Points that the camera cannot see past a nearer surface between the pixels (the LiDAR stands elsewhere) stay in.
    Returns z-depth float32 [H, W], metres, 0 where no point fell. `points_camera`: points [N, 3] in the camera's
    optical frame, metres.
    """
    pixels, valid = camera.project(points_camera)
    column, row = np.floor(np.asarray(pixels)[np.asarray(valid)] + 0.5).astype(np.int64).T
    depth = np.full((camera.height, camera.width), np.inf, dtype=np.float32)
    np.minimum.at(depth, (row, column), points_camera[np.asarray(valid), 2].astype(np.float32))
    depth[np.isinf(depth)] = 0.0
    return depth


@lru_cache(maxsize=4)
def nearest_pixels(camera: Camera, rays: Camera) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The pixel of a camera that sees most nearly what each pixel of another one at the same place sees.

    Returns rows and columns [h, w] of the camera, and bool [h, w], whether its image shows that direction at all.
    """
    pixels, valid = camera.project(np.asarray(rays.unproject(rays.pixel_centres())))
    inside = np.asarray(valid) & np.isfinite(np.asarray(pixels)).all(axis=-1)
    nearest = np.floor(np.where(inside[..., None], pixels, 0.0) + 0.5).astype(np.int64)
    rows = np.clip(nearest[..., 1], 0, camera.height - 1)
    return rows, np.clip(nearest[..., 0], 0, camera.width - 1), inside


def depth_at_rays(depth: NDArray[np.float32], camera: Camera, rays: Camera) -> NDArray[np.float32]:
    """Depth of one camera at the rays of another at the same place.

    Returns that of the nearest pixel [h, w], 0 where there is none. `depth`: z-depth [H, W], metres; 0 or not finite
    where there is none.
    """
    rows, columns, inside = nearest_pixels(camera, rays)
    found = depth[rows, columns]
    return np.where(inside & np.isfinite(found) & (found > 0.0), found, np.float32(0.0)).astype(np.float32)
