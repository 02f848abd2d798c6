"""Density logits of voxels against occupancy fused from the stereo depth of many frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor, offset: float) -> Tensor:
    """Weighted binary cross-entropy between sigmoid(x + offset) and a soft occupancy target.

    x is the density before softplus. The offset keeps classification and rendering from fighting: a voxel of which
    the field is unsure (probability 0.3) would, as an opacity, block every ray after a few voxels; with an offset of
    3 it has σ = 0.02 per metre and blocks nothing. Opacity stays a monotone function of the probability, which is
    what the calibration of the bundle undoes.

    Args:
        logit: x [B, N] at voxel centres.
        target: Occupancy evidence [B, N] in 0..1.
        weight: Trust in the target [B, N].
        offset: Added to x.
    """
    loss = functional.binary_cross_entropy_with_logits(logit + offset, target, weight=weight, reduction="sum")
    return loss / weight.sum().clamp_min(1.0)
