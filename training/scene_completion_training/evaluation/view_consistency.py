"""Do features and classes stay the same from view to view? Optical flow says which pixels show the same.

SceneDINO scores features so: two frames that are three apart, each rendered from its own image; the second is warped to
the first, and compared where a forward-backward check finds nothing hidden. Its script is not public. Flow here comes
from OpenCV's DIS (Kroeger et al., ECCV 2016), where the paper takes RAFT, and the check is that of Sundaram et al.,
"Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow" (ECCV 2010), equation 5.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.evaluation.metric import Column, Metric
from scene_completion_training.evaluation.novel_views import Figures, NovelView, ViewTally
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel
from scene_completion_training.rendering.patches import rendered_features

RELATIVE, ABSOLUTE = 0.01, 0.5  # of the squared flows, and squared pixels: how far forward and backward may disagree
Classify = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where pixels of a picture [H, W, 3] went in the next one: float32 [H, W, 2], pixels to the right and down."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    dense = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return np.asarray(dense.calc(*grey, None), np.float32)


def warped(values: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [H, W, C] of the second picture where the pixels of the first went, bilinear; 0 outside of it."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    at = x + flow[..., 0], y + flow[..., 1]
    parts = [cv2.remap(part, *at, cv2.INTER_LINEAR) for part in np.moveaxis(values, -1, 0)]
    return np.stack(parts, axis=-1).astype(np.float32, copy=False)


def not_hidden(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels [H, W] of the first picture that the second shows: the flow back leads to where they came from.

    |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, with the backward flow b at the place to which the forward flow f leads.
    """
    back = warped(backward, forward)
    inside = warped(np.ones((*forward.shape[:2], 1), np.float32), forward)[..., 0] > 1.0 - 1e-3
    size = (forward**2).sum(axis=-1) + (back**2).sum(axis=-1)
    return np.asarray(inside & (((forward + back) ** 2).sum(axis=-1) < RELATIVE * size + ABSOLUTE))


def agreement(
    first: NDArray[np.float32], second: NDArray[np.float32], classify: Classify | None = None
) -> dict[str, float]:
    """How well codes [N, D] of the same pixels by two images agree, as means over the pixels; nothing without any."""
    if not len(first):
        return {}
    difference = (first - second).astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return {
        "l1": float(np.abs(difference).sum(axis=1).mean()),
        "l2": float(np.linalg.norm(difference, axis=1).mean()),
        "cosine": float(((first * second).sum(axis=1) / np.maximum(lengths, 1e-9)).mean()),
        "same_class": float((classify(first) == classify(second)).mean()) if classify else float("nan"),
    }


class ViewConsistency:
    """A feature field as a method whose views are compared, and the classes of their codes where these can be told."""

    def __init__(self, model: FeatureFieldModel, samples: int, classify: Classify | None = None) -> None:
        self.name = model.name
        self._model, self._samples, self._classify = model, samples, classify

    def answer(self, view: NovelView) -> Figures:
        """Render both frames from their own images, and bring the later one's codes to the first one's pixels."""
        images = [self._model.image(view.sequence, index) for index in (view.index, view.seen)]
        pictures = [image.permute(1, 2, 0).round().byte().numpy() for image in images]
        forward, backward = optical_flow(*pictures), optical_flow(*pictures[::-1])
        counted = not_hidden(forward, backward)
        first, second = (self._codes(image) for image in images)
        values = agreement(first[counted], warped(second, forward)[counted], self._classify)
        return Figures(view.target, values and {"shared": float(counted.mean()), **values})

    @torch.inference_mode()
    def _codes(self, image: Tensor) -> NDArray[np.float32]:
        """Codes [H, W, D] of the pixels of an image [3, H, W], composited along its rays."""
        seen, spec = self._model.encode(image), self._model.field.spec
        height, width = image.shape[1:]
        camera = self._model.field.camera.resized(width, height)
        parts = rendered_features(
            seen, camera, near=spec.near, far=spec.far, device=self._model.device, samples=self._samples
        )
        return torch.cat([self._model.codes(part) for part in parts]).reshape(height, width, -1).cpu().numpy()


CONSISTENCY = Metric(
    "consistency",
    "Features of two frames, each rendered from its own image, where optical flow finds the same pixels in both: norms "
    "of their difference, cosine, and how many have the same class; mean over pairs.",
    (
        Column("shared", "pixels in both"),
        Column("l1", "L1 ↓", percent=False),
        Column("l2", "L2 ↓", percent=False),
        Column("cosine", "cosine ↑", percent=False),
        Column("same_class", "same class ↑"),
    ),
    ViewTally,
    by=("target",),
)
