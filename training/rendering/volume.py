"""Sampling along rays in inverse depth, and alpha compositing (Behind the Scenes, section 3; Max 1995)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def inverse_depth_samples(
    shape: tuple[int, ...],
    count: int,
    near: float,
    far: float,
    *,
    generator: torch.Generator | None = None,
    jitter: bool = True,
    device: torch.device | None = None,
) -> Tensor:
    """Distances t_i = 1 / ((1 − s_i)/near + s_i/far), s_i = i/K + U(0, 1/K); the interval's middle without jitter.

    Args:
        shape: Leading shape, e.g. (B, R).
        count: Samples K per ray.
        near: Nearest distance in metres.
        far: Farthest distance in metres.
        generator: Source of randomness.
        jitter: Stratified jitter; off at evaluation.
        device: Where the result goes; the jitter is drawn on the CPU.

    Returns:
        Distances [*shape, K] in metres, increasing.
    """
    steps = torch.arange(count, dtype=torch.float32).expand(*shape, count)
    offset = torch.rand((*shape, count), generator=generator) if jitter else torch.full((*shape, count), 0.5)
    s = (steps + offset) / count
    return (1.0 / ((1.0 - s) / near + s / far)).to(device)


@dataclass(frozen=True)
class Composite:
    """What alpha compositing gives: `weights` [B, R, K] and `distance` [B, R] (expected termination, metres)."""

    weights: Tensor
    distance: Tensor


def composite(density: Tensor, distances: Tensor, *, hard_alpha_cap: bool = True) -> Composite:
    """Composites densities along rays.

    α_i = 1 − exp(−δ_i σ_i), T_i = Π_{j<i} (1 − α_j), w_i = α_i T_i; δ_i = t_{i+1} − t_i.

    Args:
        density: σ [B, R, K] per metre.
        distances: t [B, R, K] metres along the ray.
        hard_alpha_cap: Set the last α to one, so that the weights sum to one.
    """
    lengths = torch.cat([distances[..., 1:] - distances[..., :-1], torch.full_like(distances[..., :1], 1e10)], dim=-1)
    optical = density * lengths
    alpha = -torch.expm1(-optical)
    if hard_alpha_cap:
        alpha = torch.cat([alpha[..., :-1], torch.ones_like(alpha[..., :1])], dim=-1)
    transmittance = torch.exp(-torch.cumsum(optical[..., :-1], dim=-1))
    transmittance = torch.cat([torch.ones_like(transmittance[..., :1]), transmittance], dim=-1)
    weights = alpha * transmittance
    return Composite(weights, (weights * distances).sum(dim=-1))
