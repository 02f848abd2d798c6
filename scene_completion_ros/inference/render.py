"""Depth rendered from the density field itself, not limited by any grid: what depth is evaluated with.

Behind the Scenes, section 3: samples at equal steps of inverse distance, emission-absorption along the ray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.query_kernel import FieldKernel
from scene_completion_ros.jit import kernel_threads

CHUNK = 4096


def inverse_distance_samples(count: int, near: float, far: float) -> NDArray[np.float64]:
    """Distances t_i = 1 / ((1 - s_i) / near + s_i / far) at the middles s_i = (i + 1/2) / K: float64 [K], metres."""
    s = (np.arange(count) + 0.5) / count
    return np.asarray(1.0 / ((1.0 - s) / near + s / far), dtype=np.float64)


def composite_distance(density: NDArray[np.floating], distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected distance of termination of rays.

    alpha_i = 1 - exp(-sigma_i (t_{i+1} - t_i)), w_i = alpha_i prod_{j<i} (1 - alpha_j); the last alpha is 1, so that
    the weights sum to 1.

    Args:
        density: sigma [R, K], per metre.
        distances: t [K], metres along the ray, increasing.

    Returns:
        float64 [R], metres along the ray.
    """
    optical = density[:, :-1].astype(np.float64) * np.diff(distances)
    transmittance = np.exp(-np.cumsum(optical, axis=1))  # before samples 1 .. K - 1
    before = np.concatenate([np.ones((len(density), 1)), transmittance], axis=1)
    after = np.concatenate([transmittance, np.zeros((len(density), 1))], axis=1)
    return np.asarray((before - after) @ distances, dtype=np.float64)


class DepthRenderer:
    """Renders z-depth from one student's field for a camera at the place of the canonical one.

    Args:
        bundle: The student.
        camera: Its pixels are the rays; any model, same optical frame as the canonical camera.
        samples: K, samples a ray.
        near: Nearest distance along the ray, metres.
        far: Farthest distance along the ray, metres.
    """

    def __init__(
        self, bundle: StudentBundle, camera: Camera, *, samples: int = 64, near: float = 3.0, far: float = 80.0
    ) -> None:
        self.bundle = bundle
        self.camera = camera
        self.distances = inverse_distance_samples(samples, near, far)
        limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
        self._field = FieldKernel(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            np.array([-limit, -limit, low]),
            np.array([limit, limit, high]),
        )

    def __call__(
        self, features: NDArray[np.float32], pixels: NDArray[np.floating] | None = None
    ) -> NDArray[np.float32]:
        """Expected z-depth, float32 [H, W] of the camera, or [N] of ``pixels`` [N, 2] (u, v).

        Metres, NaN where the lens sees no ray.

        Args:
            features: float32 [h, w, C], the encoder's output.
            pixels: Pixel coordinates to render; None for all pixel centres.
        """
        chosen = self.camera.pixel_centres().reshape(-1, 2) if pixels is None else np.asarray(pixels, np.float64)
        rays = self.camera.unproject(chosen)  # z = 1
        length = np.linalg.norm(rays, axis=1)
        depth = np.empty(len(rays), dtype=np.float32)
        for start in range(0, len(rays), CHUNK):
            directions = np.nan_to_num(rays[start : start + CHUNK] / length[start : start + CHUNK, None])
            points = directions[:, None, :] * self.distances[:, None]  # [n, K, 3]
            density = self._density(features, points.reshape(-1, 3)).reshape(len(directions), -1)
            depth[start : start + CHUNK] = composite_distance(density, self.distances)
        depth *= (1.0 / length).astype(np.float32)
        return depth.reshape(self.camera.height, self.camera.width) if pixels is None else depth

    def _density(self, features: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float32]:
        samples = self._field.prepare(points, np.arange(len(points), dtype=np.int32))
        density = np.empty(len(points), dtype=np.float32)
        with kernel_threads(None):
            self._field(features, samples, density)
        return density


def render_depth(
    features: NDArray[np.float32],
    bundle: StudentBundle,
    camera: Camera,
    *,
    pixels: NDArray[np.floating] | None = None,
    samples: int = 64,
    near: float = 3.0,
    far: float = 80.0,
) -> NDArray[np.float32]:
    """Renders once; see `DepthRenderer`, which is cheaper for several images."""
    return DepthRenderer(bundle, camera, samples=samples, near=near, far=far)(features, pixels)
