"""Between what a training calls occupancy (a link from density logits) and what a bundle does (α → probability)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.inference.calibration import Calibration

_LOGITS = np.linspace(-12.0, 8.0, 41)
_CERTAIN = 0.98
"""Probabilities beyond this, and below its complement, say little of a slope."""


def link_calibration(link: Mapping[str, Tensor], voxel_size: float) -> Calibration:
    """α → probability as the training learned it: both follow from the density's logit x, α by softplus, p by the link.

    It stands in until one is fitted on a drive that took no part: training voxels are drawn, not counted, a quarter of
    them occupied.

    Args:
        link: Weights of the `OccupancyLink`; the identity is returned where there are none.
        voxel_size: δ of the opacity, metres.
    """
    if not link:
        return Calibration()
    alpha = _opacity(voxel_size)
    probability = 1.0 / (1.0 + np.exp(-(np.exp(link["log_scale"].item()) * _LOGITS + link["offset"].item())))
    return Calibration("piecewise_linear", (0.0, *alpha.tolist(), 1.0), (0.0, *probability.tolist(), 1.0))


def link_of_calibration(calibration: Calibration, voxel_size: float) -> dict[str, Tensor]:
    """Weights of the `OccupancyLink` nearest to a calibration (least squares in logits); none for the identity.

    A bundle keeps no link. Without this, a training that goes on from one would read its densities as if nothing had
    been learned of them.

    Args:
        calibration: α → probability.
        voxel_size: δ of the opacity, metres.
    """
    if calibration.kind == "identity":
        return {}
    probability = calibration.apply(_opacity(voxel_size).astype(np.float32)).astype(np.float64)
    told = (probability > 1.0 - _CERTAIN) & (probability < _CERTAIN)
    if told.sum() < 2:
        return {}
    wanted = np.log(probability[told] / (1.0 - probability[told]))
    slope, offset = np.polyfit(_LOGITS[told], wanted, 1)
    return {"log_scale": torch.tensor(math.log(max(slope, 1e-3))), "offset": torch.tensor(float(offset))}


def _opacity(voxel_size: float) -> NDArray[np.float64]:
    return np.asarray(-np.expm1(-np.logaddexp(0.0, _LOGITS) * voxel_size))
