"""Sampling and compositing against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from scene_completion_training.rendering.volume import composite, inverse_depth_samples


def test_samples_are_uniform_in_inverse_depth_and_stay_in_their_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    t = inverse_depth_samples((2, 5), 64, 3.0, 80.0, generator=generator)
    s = (1 / 3.0 - 1 / t) / (1 / 3.0 - 1 / 80.0)  # the uniform variable behind the distance
    assert torch.all(s * 64 >= torch.arange(64) - 1e-3)
    assert torch.all(s * 64 <= torch.arange(1, 65) + 1e-3)
    middle = inverse_depth_samples((1,), 2, 3.0, 80.0, jitter=False)[0]
    assert middle.tolist() == pytest.approx([1 / (0.75 / 3 + 0.25 / 80), 1 / (0.25 / 3 + 0.75 / 80)])


def test_slab_depth_is_the_analytic_one() -> None:
    """Constant σ from 10 m on: expected termination 10 + 1/σ."""
    sigma = 0.5
    distances = torch.linspace(3.0, 80.0, 20_000)[None, None]
    density = torch.where(distances >= 10.0, sigma, 0.0)
    result = composite(density, distances)
    assert result.distance.item() == pytest.approx(10.0 + 1.0 / sigma, abs=0.02)
    assert result.weights.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_hard_alpha_cap_puts_the_rest_on_the_last_sample() -> None:
    distances = torch.tensor([[[1.0, 2.0, 3.0]]])
    density = torch.tensor([[[math.log(2.0), 0.0, 0.0]]])  # α = 0.5, 0, 0
    capped = composite(density, distances).weights[0, 0]
    assert capped.tolist() == pytest.approx([0.5, 0.0, 0.5])
    free = composite(density, distances, hard_alpha_cap=False).weights[0, 0]
    assert free.tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_composite_gradients() -> None:
    torch.manual_seed(0)
    density = torch.rand(1, 2, 6, dtype=torch.float64, requires_grad=True)
    distances = torch.cumsum(torch.rand(1, 2, 6, dtype=torch.float64) + 0.1, dim=-1)
    assert torch.autograd.gradcheck(lambda d: composite(d, distances).distance, (density,))
