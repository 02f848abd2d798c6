"""A synthetic scene, ray-cast in NumPy: textured ground, a wall ahead, a box before it."""

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 624, 188
FOCAL, CENTRE = 362.0, (311.5, 90.0)
BASELINE = 0.54
CAMERA_HEIGHT = 1.65
WALL_AHEAD = 24.0
"""z of the wall in the first camera's frame, metres."""
BOX = ((-1.0, -0.2, 12.0), (1.5, CAMERA_HEIGHT, 14.0))
"""Corners (minimum, maximum) of a box in the first camera's frame, metres."""


def _texture(u: NDArray[np.float64], v: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Smooth noise in 40..215 at surface coordinates in metres."""
    noise = np.random.default_rng(seed).integers(0, 255, (128, 128)).astype(np.float32)
    big = cv2.GaussianBlur(cv2.resize(noise, (1024, 1024), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
    big = np.clip((big - big.mean()) * 1.6 + 128, 40, 215)
    return big[np.mod(v * 64, 1024).astype(int), np.mod(u * 64, 1024).astype(int)]


def ray_cast(origin: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Image [H, W, 3] and z-depth [H, W] of a camera at `origin` (first camera's frame), looking along z."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    ray = np.stack([(u - CENTRE[0]) / FOCAL, (v - CENTRE[1]) / FOCAL, np.ones(u.shape)], axis=-1)
    depth = np.full(u.shape, WALL_AHEAD - origin[2])
    point = origin + ray * depth[..., None]
    grey = _texture(point[..., 0], point[..., 1], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = np.where(ray[..., 1] > 0, (CAMERA_HEIGHT - origin[1]) / ray[..., 1], np.inf)
        nearer = ground < depth
        depth = np.where(nearer, ground, depth)
        point = origin + ray * depth[..., None]
        grey = np.where(nearer, _texture(point[..., 0], point[..., 2], 2), grey)
        low, high = (np.array(corner) - origin for corner in BOX)
        first, second = low / ray, high / ray
        enter = np.minimum(first, second).max(axis=-1)
        leave = np.maximum(first, second).min(axis=-1)
    hit = (enter < leave) & (enter > 0) & (enter < depth)
    depth = np.where(hit, enter, depth)
    point = origin + ray * depth[..., None]
    grey = np.where(hit, _texture(point[..., 0] + point[..., 2], point[..., 1], 3), grey)
    return np.repeat(grey[..., None].astype(np.uint8), 3, axis=-1), depth
