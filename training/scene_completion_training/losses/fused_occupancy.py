"""Density logits of voxels against occupancy fused from the stereo depth of many frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from scene_completion_training.losses.means import shared_count


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy against a soft occupancy target.

    Args:
        logit: Logit of the probability [B, N] at voxel centres, see `OccupancyLink`.
        target: Occupancy evidence [B, N] in 0..1.
        weight: Trust in the target [B, N].
    """
    loss = functional.binary_cross_entropy_with_logits(logit, target, weight=weight, reduction="sum")
    return loss / shared_count(weight.sum())
