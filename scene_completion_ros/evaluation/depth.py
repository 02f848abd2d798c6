"""Depth errors of the Eigen protocol: Garg crop, capped range, mean over frames of the errors of each frame.

The errors are those of Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network"
(NeurIPS 2014); the crop is that of Garg et al., "Unsupervised CNN for Single View Depth Estimation" (ECCV 2016).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError

Interpolation: TypeAlias = Literal["nearest", "bilinear"]

GARG_ROWS = (0.40810811, 0.99189189)
GARG_COLUMNS = (0.03594771, 0.96405229)


@dataclass(frozen=True)
class DepthErrors:
    """Errors of predicted depth d against true depth d*, over pixels p of one frame or as a mean over frames.

    Attributes:
        abs_rel: mean |d - d*| / d*.
        sq_rel: mean (d - d*)^2 / d*, metres.
        rmse: sqrt(mean (d - d*)^2), metres.
        rmse_log: sqrt(mean (ln d - ln d*)^2).
        a1: Share of pixels with max(d / d*, d* / d) < 1.25.
        a2: The same for 1.25^2.
        a3: The same for 1.25^3.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float


def garg_crop(height: int, width: int) -> NDArray[np.bool_]:
    """Pixels inside the crop of Garg et al. for an image of the ground truth's size: bool [height, width]."""
    mask = np.zeros((height, width), dtype=bool)
    rows = slice(*(int(share * height) for share in GARG_ROWS))
    mask[rows, slice(*(int(share * width) for share in GARG_COLUMNS))] = True
    return mask


def resize_depth(
    depth: NDArray[np.floating[Any]], height: int, width: int, interpolation: Interpolation = "bilinear"
) -> NDArray[np.float32]:
    """Bring a depth image to another size; the corners of the images coincide, not the centres of their corner pixels.

    Args:
        depth: Depth [h, w], metres.
        height: Wanted height.
        width: Wanted width.
        interpolation: "nearest" as in the published protocol, or "bilinear".

    Returns:
        float32 [height, width].
    """
    source = np.ascontiguousarray(depth, dtype=np.float32)
    if interpolation == "bilinear":
        return np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    rows = ((np.arange(height) + 0.5) * source.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * source.shape[1] / width).astype(np.int64)
    return np.asarray(source[rows[:, None], columns[None, :]], dtype=np.float32)


def depth_errors(
    predicted: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    *,
    crop: bool = True,
    minimum: float = 1e-3,
    maximum: float = 80.0,
    median_scaling: bool = False,
    interpolation: Interpolation = "bilinear",
) -> DepthErrors | None:
    """Errors of one predicted depth image.

    Args:
        predicted: Depth [h, w], metres; resized to the size of the ground truth, then clamped to minimum..maximum.
        truth: True depth [H, W], metres, 0 where nothing was measured. Pixels outside minimum..maximum do not count.
        crop: Count only pixels in the Garg crop.
        minimum: Smallest depth, metres.
        maximum: Largest depth, metres.
        median_scaling: Multiply the prediction by median(truth) / median(predicted) of the frame first. Hides errors
            of scale: off unless the prediction has no scale.
        interpolation: How the prediction is resized.

    Returns:
        The errors, or None where no pixel counts.

    Raises:
        ImageError: The prediction holds a number that is not finite, or the images are not two-dimensional.
    """
    if predicted.ndim != 2 or truth.ndim != 2:
        raise ImageError(f"shapes {predicted.shape} and {truth.shape}", where="depth", cure="Give images [H, W]")
    if not np.isfinite(predicted).all():
        bad = int(np.count_nonzero(~np.isfinite(predicted)))
        raise ImageError(f"{bad} predicted depths are not finite", where="depth", cure="Fill them or mask the truth")
    counted = (truth > minimum) & (truth < maximum)
    if crop:
        counted &= garg_crop(*truth.shape)
    if not counted.any():
        return None
    true = truth[counted].astype(np.float64)
    height, width = truth.shape
    depth = resize_depth(predicted, height, width, interpolation)[counted].astype(np.float64)
    if median_scaling:
        depth *= np.median(true) / np.median(depth)
    depth = np.clip(depth, minimum, maximum)
    difference = depth - true
    ratio = np.maximum(depth / true, true / depth)
    return DepthErrors(
        abs_rel=float(np.mean(np.abs(difference) / true)),
        sq_rel=float(np.mean(difference**2 / true)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_log=float(np.sqrt(np.mean((np.log(depth) - np.log(true)) ** 2))),
        a1=float(np.mean(ratio < 1.25)),
        a2=float(np.mean(ratio < 1.25**2)),
        a3=float(np.mean(ratio < 1.25**3)),
    )


class DepthMetric:
    """Mean over frames of `depth_errors`.

    Args:
        crop: See `depth_errors`.
        minimum: See `depth_errors`.
        maximum: See `depth_errors`.
        median_scaling: See `depth_errors`.
        interpolation: See `depth_errors`.

    Attributes:
        sums: float64 [7], the errors of all frames added up.
        frames: Frames counted.
        empty_frames: Frames without a pixel to count.
    """

    def __init__(
        self,
        *,
        crop: bool = True,
        minimum: float = 1e-3,
        maximum: float = 80.0,
        median_scaling: bool = False,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.crop = crop
        self.minimum = minimum
        self.maximum = maximum
        self.median_scaling = median_scaling
        self.interpolation: Interpolation = interpolation
        self.sums = np.zeros(7)
        self.frames = 0
        self.empty_frames = 0

    def update(self, predicted: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]]) -> DepthErrors | None:
        """Count one frame; see `depth_errors`. Returns the frame's errors."""
        errors = depth_errors(
            predicted,
            truth,
            crop=self.crop,
            minimum=self.minimum,
            maximum=self.maximum,
            median_scaling=self.median_scaling,
            interpolation=self.interpolation,
        )
        if errors is None:
            self.empty_frames += 1
        else:
            self.sums += astuple(errors)
            self.frames += 1
        return errors

    def merge(self, other: DepthMetric) -> None:
        """Add the state of another accumulator."""
        self.sums += other.sums
        self.frames += other.frames
        self.empty_frames += other.empty_frames

    def compute(self) -> DepthErrors:
        """Mean over the frames; all NaN before the first."""
        with np.errstate(invalid="ignore"):
            return DepthErrors(*(float(value) for value in self.sums / np.float64(self.frames)))
