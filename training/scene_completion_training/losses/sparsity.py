"""A weak preference for empty space where no view has any evidence (sky, the inside of things)."""

from __future__ import annotations

from torch import Tensor

from scene_completion_ros.voxels.occupancy import opacity


def mean_opacity(density: Tensor, voxel_size: float) -> Tensor:
    """Mean opacity over voxel edges, metres, of densities [B, N] per metre at points of the view volume."""
    mean: Tensor = opacity(density, voxel_size).mean()
    return mean
