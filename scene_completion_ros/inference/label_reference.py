"""The labels of the student's field at any points, written to be read. ``label_query`` is its fast twin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.query_reference import hidden_reference


def label_logits_reference(
    features: NDArray[np.float32],
    points_camera: NDArray[np.floating],
    head: HeadWeights,
    code: PointCodeSpec,
    canonical: Camera,
) -> NDArray[np.float64]:
    """Logits V . ReLU(F_l(u, v) + W_l gamma(c) + b_l) + v of all classes.

    Args:
        features: float32 [h, w, C + E], the encoder's output; F_l are the last E channels.
        points_camera: [N, 3], optical frame, metres; anywhere, also outside the view.
        head: Weights of the head, labels among them.
        code: The point code.
        canonical: The canonical camera.

    Returns:
        float64 [N, K].

    Raises:
        ValueError: The head has no labels.
    """
    positional_weight, hidden_bias, weight, bias = head.label_layers()
    map_of_labels = features[..., head.hidden :]
    hidden = hidden_reference(map_of_labels, points_camera, positional_weight, hidden_bias, code, canonical)  # [N, E]
    return np.asarray(hidden @ weight.T + bias, dtype=np.float64)


def most_likely(logits: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Label, uint8 [N], and confidence, float64 [N], of logits [N, K]: the argmax, and its softmax probability."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return logits.argmax(axis=1).astype(np.uint8), 1.0 / np.exp(shifted).sum(axis=1)
