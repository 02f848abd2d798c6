"""Depth of a student at any pixel, not limited by any grid: what depth is evaluated with.

A student may say it itself. Otherwise it is rendered from the density field. Behind the Scenes, section 3: samples at
equal steps of inverse distance, emission-absorption along the ray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.arrays import Array
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.query_kernel import FieldKernel, sample_bilinear
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.voxels.occupancy import composite

CHUNK = 4096


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

    Args:
        depth: `EncodedImage.depth`, float32 [h', w'].
        canonical: The student's camera, of whose `ray_camera` they are the pixels.
        camera: Any model, same optical frame.
        pixels: Pixel coordinates [N, 2] (u, v).

    Returns:
        float32 [N], metres: linear in inverse depth between pixels, constant beyond the outer ones. NaN where the lens
        sees no ray.
    """
    rays = camera.unproject(np.asarray(pixels, np.float64))
    places, _ = ray_camera(canonical).project(rays)
    size = np.array([depth.shape[1], depth.shape[0]])
    inverse = sample_bilinear(1.0 / depth[..., None], (2.0 * np.nan_to_num(places) + 1.0) / size - 1.0)[:, 0]
    return np.where(np.isfinite(rays).all(axis=1), 1.0 / inverse, np.nan).astype(np.float32)


def render_depth(
    encoded: EncodedImage,
    bundle: StudentBundle,
    camera: Camera,
    *,
    pixels: NDArray[np.floating] | None = None,
    samples: int = 64,
    near: float = 3.0,
    far: float = 80.0,
) -> NDArray[np.float32]:
    """Renders z-depth from one student's field for a camera at the place of the canonical one.

    Args:
        encoded: The encoder's output.
        camera: Its pixels are the rays; any model, same optical frame as the canonical camera.
        pixels: Pixel coordinates [N, 2] (u, v) to render; None for all pixel centres.
        samples: K, samples a ray.
        near: Nearest distance along the ray, metres.
        far: Farthest distance along the ray, metres.

    Returns:
        Expected z-depth, float32 [H, W] of the camera, or [N] of ``pixels``. Metres, NaN where the lens sees no ray.
    """
    distances = inverse_distance_samples(samples, near, far)
    limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
    field = FieldKernel(
        bundle.head,
        bundle.point_code,
        bundle.canonical,
        bundle.feature_size,
        np.array([-limit, -limit, low]),
        np.array([limit, limit, high]),
    )
    chosen = camera.pixel_centres().reshape(-1, 2) if pixels is None else np.asarray(pixels, np.float64)
    rays = camera.unproject(chosen)  # z = 1
    length = np.linalg.norm(rays, axis=1)
    depth = np.empty(len(rays), dtype=np.float32)
    for start in range(0, len(rays), CHUNK):
        directions = np.nan_to_num(rays[start : start + CHUNK] / length[start : start + CHUNK, None])
        points = (directions[:, None, :] * distances[:, None]).reshape(-1, 3)  # [n K, 3]
        density = np.empty(len(points), dtype=np.float32)
        prepared = field.prepare(points, np.arange(len(points), dtype=np.int32))
        with kernel_threads(None):
            field(encoded.features, prepared, density, volume=encoded.volume)
        depth[start : start + CHUNK] = composite(density.reshape(len(directions), -1), distances).distance
    depth *= (1.0 / length).astype(np.float32)
    return depth.reshape(camera.height, camera.width) if pixels is None else depth
