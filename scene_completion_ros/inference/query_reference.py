"""The density of the student's field at any points, written to be read. ``query_kernel`` is its fast twin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec


def sample_bilinear(features: NDArray[np.floating], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear samples of a map with taps clamped to its border.

    Args:
        features: [h, w, C].
        xy: [N, 2] normalised coordinates, -1 and 1 at the outer pixel edges (align_corners false).

    Returns:
        float64 [N, C].
    """
    height, width, _ = features.shape
    u = np.clip(((xy[:, 0] + 1.0) * width - 1.0) / 2.0, 0.0, width - 1.0)
    v = np.clip(((xy[:, 1] + 1.0) * height - 1.0) / 2.0, 0.0, height - 1.0)
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (u - left)[:, None], (v - top)[:, None]
    upper = (1.0 - a) * features[top, left] + a * features[top, right]
    lower = (1.0 - a) * features[bottom, left] + a * features[bottom, right]
    return np.asarray((1.0 - b) * upper + b * lower, dtype=np.float64)


def hidden_reference(
    features: NDArray[np.float32],
    points_camera: NDArray[np.floating],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    code: PointCodeSpec,
    canonical: Camera,
) -> NDArray[np.float64]:
    """Hidden units h = ReLU(F(u, v) + W_gamma gamma(c) + b) of points.

    Args:
        features: F, float32 [h, w, C], the channels of these units.
        points_camera: [N, 3], optical frame, metres.
        weight: W_gamma, float32 [C, 39].
        bias: b, float32 [C].
        code: The point code.
        canonical: The canonical camera.

    Returns:
        float64 [N, C].
    """
    coordinates = code.coordinates(points_camera.astype(np.float64), canonical)  # [N, 3]
    sampled = sample_bilinear(features, coordinates[:, :2])  # [N, C]
    positional = code.encode(coordinates) @ weight.T.astype(np.float64)
    return np.asarray(np.maximum(sampled + positional + bias, 0.0), dtype=np.float64)


def density_reference(
    features: NDArray[np.float32],
    points_camera: NDArray[np.floating],
    head: HeadWeights,
    code: PointCodeSpec,
    canonical: Camera,
    *,
    chunk: int = 65536,
) -> NDArray[np.float64]:
    """Density sigma = softplus(g (w . ReLU(F(u, v) + W_gamma gamma(c) + b) + d) + l), per metre.

    Gain g and logit l are those of the place prior at the point; 1 and 0 where the head has none.

    Args:
        features: float32 [h, w, C + E], the encoder's output; F are the first C channels.
        points_camera: [N, 3], optical frame, metres; anywhere, also outside the view.
        head: Weights of the head.
        code: The point code.
        canonical: The canonical camera.
        chunk: Points held in memory at a time.

    Returns:
        float64 [N].
    """
    density, map_of_density = np.empty(len(points_camera)), features[..., : head.hidden]
    for start in range(0, len(points_camera), chunk):
        points = points_camera[start : start + chunk]
        hidden = hidden_reference(map_of_density, points, head.positional_weight, head.hidden_bias, code, canonical)
        logit = hidden @ head.density_weight.astype(np.float64) + head.density_bias[0]
        if head.prior is not None:
            gain, prior = head.prior.at(points).astype(np.float64).T
            logit = gain * logit + prior
        density[start : start + chunk] = np.logaddexp(0.0, logit)
    return density
