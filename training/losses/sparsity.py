"""A weak preference for empty space where no view has any evidence (sky, the inside of things)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera


def sample_view_volume(
    camera: Camera,
    batch: int,
    count: int,
    *,
    near: float,
    far: float,
    heights: tuple[float, float],
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Draws points uniformly in depth and pixel position from the part of the view between two heights.

    Args:
        camera: Camera of the view.
        batch: Batch size B.
        count: Points N.
        near: Nearest depth, metres.
        far: Farthest depth, metres.
        heights: Lowest and highest y (down) in metres that a point may have; points beyond are clamped.
        generator: Source of randomness, on the CPU.
        device: Where the points go.

    Returns:
        Points [B, N, 3], metres, optical frame.
    """
    unit = torch.rand((batch, count, 3), generator=generator).to(device)
    depth = near + (far - near) * unit[..., 2]
    x = (unit[..., 0] * camera.width - 0.5 - camera.cx) / camera.fx * depth
    y = (unit[..., 1] * camera.height - 0.5 - camera.cy) / camera.fy * depth
    return torch.stack([x, y.clamp(*heights), depth], dim=-1)


def mean_opacity(density: Tensor, voxel_size: float) -> Tensor:
    """Mean α = 1 − exp(−σ·δ) of densities [B, N] per metre at points of the view volume."""
    return -torch.expm1(-density * voxel_size).mean()


def free_cross_entropy(logit: Tensor, known: Tensor) -> Tensor:
    """Mean −log(1 − p) of occupancy logits [B, N] at points of the view volume.

    Args:
        logit: The logits.
        known: Whether a sample has voxels that say where things are [B]. In one that has none, nothing would hold
            against this loss, and the whole field would become empty.
    """
    return (functional.softplus(logit) * known[:, None]).mean()
