"""A weak preference for empty space where no view has any evidence (sky, the inside of things)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from scene_completion_ros.voxels.occupancy import opacity


def mean_opacity(density: Tensor, voxel_size: float) -> Tensor:
    """Mean opacity over voxel edges, metres, of densities [B, N] per metre at points of the view volume."""
    mean: Tensor = opacity(density, voxel_size).mean()
    return mean


def free_cross_entropy(logit: Tensor, known: Tensor) -> Tensor:
    """Mean −log(1 − p) of occupancy logits [B, N] at points of the view volume.

    Args:
        logit: The logits.
        known: Whether a sample has voxels that say where things are [B]. In one that has none, nothing would hold
            against this loss, and the whole field would become empty.
    """
    return (functional.softplus(logit) * known[:, None]).mean()
