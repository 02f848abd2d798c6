"""Depth images: made of LiDAR points, and looked up from another camera at the same place."""

from functools import lru_cache

import numpy as np

from scene_completion_ros.arrays import Doubles, Floats, Ints, Mask, Reals
from scene_completion_ros.geometry.cameras import Camera

_EDGE = 0.05  # of its depth, by which one surface may differ between neighbours, and between two views that agree


def sparse_depth(points_camera: Reals, camera: Camera) -> Floats:
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
def nearest_pixels(camera: Camera, rays: Camera) -> tuple[Ints, Ints, Mask]:
    """Rows, columns [h, w] of the camera's pixels nearest to those of another at its place, and whether shown."""
    pixels, valid = camera.project(np.asarray(rays.unproject(rays.pixel_centres())))
    inside = np.asarray(valid) & np.isfinite(np.asarray(pixels)).all(axis=-1)
    nearest = np.floor(np.where(inside[..., None], pixels, 0.0) + 0.5).astype(np.int64)
    return np.clip(nearest[..., 1], 0, camera.height - 1), np.clip(nearest[..., 0], 0, camera.width - 1), inside


def depth_at_rays(depth: Floats, camera: Camera, rays: Camera) -> Floats:
    """Depth [H, W], metres, at the nearest pixel of the rays [h, w] of another camera there; 0 where there is none."""
    rows, columns, inside = nearest_pixels(camera, rays)
    found = depth[rows, columns]
    return np.where(inside & np.isfinite(found) & (found > 0.0), found, np.float32(0.0)).astype(np.float32)


def surface_normals(positions: Reals) -> Doubles:
    """Normals of a depth image's surface, towards the camera.

    Returns [h, w, 3], unit length: the cross product of the differences of neighbours to both sides. Zero where one is
    unknown, or lies on another surface, at the edge as well. `positions`: points of the pixels [h, w, 3] in the optical
    frame, NaN where unknown.
    """
    normals = np.zeros(positions.shape)
    if min(positions.shape[:2]) < 3:
        return normals
    across = positions[1:-1, 2:] - positions[1:-1, :-2]
    down = positions[2:, 1:-1] - positions[:-2, 1:-1]
    found = np.cross(across, down)
    centre = positions[1:-1, 1:-1]
    found *= -np.sign((found * centre).sum(axis=-1, keepdims=True))
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    step = np.maximum(np.abs(across[..., 2:]), np.abs(down[..., 2:]))
    smooth = (length > 0.0) & (step < 2.0 * _EDGE * centre[..., 2:])
    normals[1:-1, 1:-1] = np.where(smooth, found / np.where(length > 0.0, length, 1.0), 0.0)
    return normals


def agreement(points: Reals, camera: Camera, depth: Floats) -> Ints:
    """How many points [N, 3], optical frame of a camera, its depth image [h, w] shows where they are, and any surface.

    Returns int64 [2]: those within `_EDGE` of the measured depth, and those whose pixel has a depth, 0 where unknown.
    """
    pixels, inside = (np.asarray(part) for part in camera.project(points))
    column, row = np.floor(pixels[inside] + 0.5).astype(np.int64).T
    there = depth[row.clip(0, depth.shape[0] - 1), column.clip(0, depth.shape[1] - 1)]
    close = np.abs(there - np.asarray(points)[inside, 2]) < _EDGE * there
    return np.array([((there > 0.0) & close).sum(), (there > 0.0).sum()])
