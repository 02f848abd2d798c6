"""Where no view has any evidence, space is called free: the weight says how strongly."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def free_cross_entropy(logit: Tensor, known: Tensor) -> Tensor:
    """Mean −log(1 − p) of occupancy logits [B, N] at points of the view volume.

    Args:
        logit: The logits.
        known: Whether a sample has voxels that say where things are [B]. In one that has none, nothing would hold
            against this loss, and the whole field would become empty.
    """
    return (functional.softplus(logit) * known[:, None]).mean()
