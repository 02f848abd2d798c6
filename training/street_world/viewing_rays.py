"""Viewing rays of a camera as unit directions, also of lenses that see behind their image plane."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.distortion import undistorted_angle
from scene_completion_training.street_world.shading_kernel import compiled

LENS_ANGLE = np.deg2rad(92.5)
"""Angle off the axis at which a fisheye's image ends; beyond lies the dark inside of the lens."""


def viewing_directions(camera: Camera, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Unit directions [..., 3] in the optical frame of pixels [..., 2]; NaN where the lens shows nothing."""
    if camera.distortion_model != "equidistant":
        rays = np.asarray(camera.unproject(np.asarray(pixels, np.float64)))
        return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
    x = (np.asarray(pixels, np.float64) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    radius = np.linalg.norm(x, axis=-1)
    angle, valid = undistorted_angle(camera.distortion, radius)
    flat = x / np.maximum(radius, 1e-12)[..., None] * np.sin(angle)[..., None]
    directions = np.concatenate([flat, np.cos(angle)[..., None]], axis=-1)
    directions[~(np.asarray(valid) & (np.asarray(angle) <= LENS_ANGLE))] = np.nan
    return np.asarray(directions)


def turned(directions: NDArray[np.float32], rotation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Directions [N, 3] turned by a rotation matrix."""
    out = np.empty(directions.shape, np.float32)
    compiled("turn")(directions, rotation.astype(np.float32), out)
    return out


@lru_cache(maxsize=8)
def pixel_directions(camera: Camera, supersampling: int = 1) -> NDArray[np.float32]:
    """Directions through k by k points of every pixel, float32 [H * k, W * k, 3]; kept, as drives reuse them."""
    fine = camera.resized(camera.width * supersampling, camera.height * supersampling)
    directions = viewing_directions(fine, fine.pixel_centres()).astype(np.float32)
    directions.setflags(write=False)
    return directions
