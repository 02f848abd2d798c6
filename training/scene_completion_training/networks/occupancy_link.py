"""From density logits to occupancy: what a training learns of it, and the calibration (α → probability) of a bundle."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from scene_completion_ros.voxels.occupancy import (
    Calibration,
    density_of_logit,
    log_odds_of_probability,
    opacity,
    probability_of_log_odds,
)

_LOGITS = np.linspace(-12.0, 8.0, 41)
_CERTAIN = 0.98  # probabilities beyond this, and below its complement, say little of a slope


class OccupancyLink(nn.Module):
    """Logit of the occupancy probability from x, the density before softplus: e^s · x + o, with s and o learned.

    The link keeps classification and rendering from fighting. A voxel of which the field is unsure (probability 0.3)
    would, as an opacity, block every ray after a few voxels. With o = 3 it has σ = 0.02 per metre and blocks nothing.
    Opacity stays a monotone function of the probability, which is what the calibration of the bundle undoes.
    """

    def __init__(self, offset: float = 3.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, logit: Tensor) -> Tensor:
        """Returns the logit of the probability, of the shape of x."""
        return logit * self.log_scale.exp() + self.offset  # type: ignore[no-any-return]


def link_calibration(link: Mapping[str, Tensor], voxel_size: float) -> Calibration:
    """α → probability as the training learned it: both follow from the density's logit x, α by softplus, p by the link.

    It stands in until one is fitted on a drive that took no part: training voxels are drawn, not counted, a quarter of
    them occupied. `link`: weights of the `OccupancyLink`; the identity is returned where there are none; `voxel_size`:
    δ of the opacity, metres.
    """
    if not link:
        return Calibration()
    alpha = opacity(density_of_logit(_LOGITS), voxel_size)
    probability = probability_of_log_odds(np.exp(link["log_scale"].item()) * _LOGITS + link["offset"].item())
    return Calibration("piecewise_linear", (0.0, *alpha.tolist(), 1.0), (0.0, *probability.tolist(), 1.0))


def link_of_calibration(calibration: Calibration, voxel_size: float) -> dict[str, Tensor]:
    """Weights of the `OccupancyLink` nearest to a calibration (α → probability, of voxels of so many metres); or none.

    The distance is that of logits, in least squares; the identity has no link. A bundle keeps none. Without this, a
    training that goes on from one would read its densities as if nothing had been learned of them.
    """
    if calibration.kind == "identity":
        return {}
    alpha = opacity(density_of_logit(_LOGITS), voxel_size).astype(np.float32)
    probability = calibration.apply(alpha).astype(np.float64)
    uncertain = (probability > 1.0 - _CERTAIN) & (probability < _CERTAIN)
    if uncertain.sum() < 2:
        return {}
    slope, offset = np.polyfit(_LOGITS[uncertain], log_odds_of_probability(probability[uncertain]), 1)
    return {"log_scale": torch.tensor(math.log(max(slope, 1e-3))), "offset": torch.tensor(float(offset))}
