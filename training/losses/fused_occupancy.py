"""Density logits of voxels against occupancy fused from the stereo depth of many frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class OccupancyLink(nn.Module):
    """Logit of the occupancy probability from x, the density before softplus: e^s · x + o, with s and o learned.

    The link keeps classification and rendering from fighting: a voxel of which the field is unsure (probability 0.3)
    would, as an opacity, block every ray after a few voxels; with o = 3 it has σ = 0.02 per metre and blocks nothing.
    Opacity stays a monotone function of the probability, which is what the calibration of the bundle undoes.

    Args:
        offset: o at the start.
    """

    def __init__(self, offset: float = 3.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, logit: Tensor) -> Tensor:
        """Returns the logit of the probability, of the shape of x."""
        out: Tensor = logit * self.log_scale.exp() + self.offset
        return out


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy against a soft occupancy target.

    Args:
        logit: Logit of the probability [B, N] at voxel centres, see `OccupancyLink`.
        target: Occupancy evidence [B, N] in 0..1.
        weight: Trust in the target [B, N].
    """
    loss = functional.binary_cross_entropy_with_logits(logit, target, weight=weight, reduction="sum")
    return loss / weight.sum().clamp_min(1.0)
