"""Depth of a student at any pixel, not limited by any grid: what depth is evaluated with.

A student may say it itself. Otherwise it is rendered from the density field at samples at equal steps of inverse
distance (Behind the Scenes, section 3).
"""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.arrays import Array
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.query_kernel import sample_bilinear
from scene_completion_ros.inference.scene_query import ray_camera


def inverse_distance(share: Array, near: float, far: float) -> Array:
    """Distance t = 1 / ((1 - s) / near + s / far), metres, at shares s [...] (0..1) of the way in inverse distance."""
    return 1.0 / ((1.0 - share) / near + share / far)


def inverse_distance_samples(count: int, near: float, far: float) -> NDArray[np.float64]:
    """`inverse_distance` at the middles s_i = (i + 1/2) / K: float64 [K], metres."""
    return np.asarray(inverse_distance((np.arange(count) + 0.5) / count, near, far), dtype=np.float64)


def said_depth(
    depth: NDArray[np.float32], canonical: Camera, camera: Camera, pixels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """z-depth that a student says itself, at pixels of a camera at the place of the canonical one.

    Returns float32 [N], metres: linear in inverse depth between pixels, constant beyond the outer ones. NaN where the
    lens sees no ray.

    Args:
        depth: `EncodedImage.depth`, float32 [h', w'].
        canonical: The student's camera, of whose `ray_camera` they are the pixels.
        camera: Any model, same optical frame.
        pixels: Pixel coordinates [N, 2] (u, v).
    """
    rays = camera.unproject(np.asarray(pixels, np.float64))
    places, _ = ray_camera(canonical).project(rays)
    size = np.array([depth.shape[1], depth.shape[0]])
    inverse = sample_bilinear(1.0 / depth[..., None], (2.0 * np.nan_to_num(places) + 1.0) / size - 1.0)[:, 0]
    return np.where(np.isfinite(rays).all(axis=1), 1.0 / inverse, np.nan).astype(np.float32)
