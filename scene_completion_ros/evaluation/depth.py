"""Depth errors of the Eigen protocol: Garg crop, capped range, mean over frames of the errors of each frame.

The errors are those of Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network"
(NeurIPS 2014). The crop is that of Garg et al., "Unsupervised CNN for Single View Depth Estimation" (ECCV 2016).
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from scene_completion_ros.arrays import Floats, Mask, Reals
from scene_completion_ros.evaluation.metric import Answer, Column, Metric, Row, Tally

GARG_ROWS = (0.40810811, 0.99189189)
GARG_COLUMNS = (0.03594771, 0.96405229)
MINIMUM_M, MAXIMUM_M = 1e-3, 80.0  # depths that count, metres


class DepthErrors(NamedTuple):
    """Errors of predicted depth d against true depth d*, over pixels p of one frame or as a mean over frames."""

    abs_rel: float  # mean |d - d*| / d*
    sq_rel: float  # mean (d - d*)^2 / d*, metres
    rmse: float  # sqrt(mean (d - d*)^2), metres
    rmse_log: float  # sqrt(mean (ln d - ln d*)^2)
    a1: float  # share of pixels with max(d / d*, d* / d) < 1.25
    a2: float  # the same for 1.25^2
    a3: float  # the same for 1.25^3
    abs_rel_scaled: float  # abs_rel of d median(d*) / median(d). What is less of it than of abs_rel is a wrong scale


def garg_crop(height: int, width: int) -> Mask:
    """Pixels inside the crop of Garg et al. for an image of the ground truth's size: bool [height, width]."""
    mask = np.zeros((height, width), dtype=bool)
    rows = slice(*(int(share * height) for share in GARG_ROWS))
    mask[rows, slice(*(int(share * width) for share in GARG_COLUMNS))] = True
    return mask


def resize_depth(depth: Reals, height: int, width: int) -> Floats:
    """Interpolate depth [h, w], metres, to float32 [height, width], with the corners of the images together."""
    source = np.ascontiguousarray(depth, dtype=np.float32)
    return np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def depth_errors(predicted: Reals, truth: Reals, *, crop: bool = True) -> DepthErrors | None:
    """Errors of one predicted depth image, all of it finite; None where no pixel counts.

    `predicted`: depth [h, w], metres; resized to the size of the truth, then clamped to `MINIMUM_M`..`MAXIMUM_M`.
    `truth`: depth [H, W], metres, 0 where nothing was measured; pixels outside of that range do not count. `crop`:
    count only pixels in the Garg crop.
    """
    assert np.isfinite(predicted).all()
    counted = (truth > MINIMUM_M) & (truth < MAXIMUM_M)
    if crop:
        counted &= garg_crop(*truth.shape)
    if not counted.any():
        return None
    true = truth[counted].astype(np.float64)
    height, width = truth.shape
    depth = np.clip(resize_depth(predicted, height, width)[counted].astype(np.float64), MINIMUM_M, MAXIMUM_M)
    scaled = np.clip(depth * (np.median(true) / np.median(depth)), MINIMUM_M, MAXIMUM_M)
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
        abs_rel_scaled=float(np.mean(np.abs(scaled - true) / true)),
    )


class DepthTally(Tally):
    """Mean over frames of `depth_errors` of all pixels and in the Garg crop, and how many pixels a method covers."""

    def __init__(self, _: object) -> None:
        self._errors: dict[str, list[DepthErrors]] = {"all pixels": [], "Garg crop": []}
        self._counted = self._covered = 0

    def add(self, answer: Answer) -> None:
        """Count the depth of a frame; "too far" counts as 80 m, and pixels without depth do not count."""
        if answer.truth.depth is None or answer.depth is None:
            return
        found, true = answer.depth, answer.truth.depth.depth
        counted, covered = (true > 0.0) & (true < MAXIMUM_M), ~np.isnan(found)
        self._counted += int(np.count_nonzero(counted))
        self._covered += int(np.count_nonzero(counted & covered))
        farthest = np.float32(MAXIMUM_M)
        predicted = np.where(covered, np.minimum(found, farthest), farthest)
        measured = np.where(counted & covered, true, np.float32(0.0))
        for pixels, frames in self._errors.items():
            errors = depth_errors(predicted, measured, crop=pixels == "Garg crop")
            frames += [] if errors is None else [errors]
        self.frames = len(self._errors["all pixels"])

    def rows(self) -> Iterator[Row]:
        """By pixels; coverage is that of all."""
        covered = self._covered / self._counted if self._counted else float("nan")
        for pixels, frames in self._errors.items():
            if frames:
                means = np.mean(frames, axis=0).tolist()
                yield {"pixels": pixels, "frames": len(frames), "covered": covered, **DepthErrors(*means)._asdict()}


DEPTH = Metric(
    "depth",
    "Depth against the LiDAR of each frame, or against the exact one: 1e-3 to 80 m, mean over frames. Only the last "
    "column scales each frame by its median.",
    (Column("covered", "covered"), *(Column(name, name, percent=False) for name in DepthErrors._fields)),
    DepthTally,
    by=("pixels",),
    headline={"pixels": "all pixels"},
)
