from __future__ import annotations

import math

import pytest
import torch

from scene_completion_training.losses.sparsity import free_cross_entropy, mean_opacity, sample_view_volume
from scene_completion_training.viewpoint import STREET_CAMERA


def test_view_volume_stays_inside_the_view() -> None:
    generator = torch.Generator().manual_seed(0)
    points = sample_view_volume(STREET_CAMERA, 2, 500, near=1.0, far=50.0, heights=(-4.0, 2.0), generator=generator)
    _, valid = STREET_CAMERA.project(points.double().numpy())
    assert valid.all()
    assert points[..., 1].min() >= -4.0 and points[..., 1].max() <= 2.0
    assert mean_opacity(torch.full((1, 3), 5.0), 0.2).item() == pytest.approx(1 - math.exp(-1.0))


def test_emptiness_is_the_cross_entropy_against_free() -> None:
    logit = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]], requires_grad=True)  # p = 1/2 and 3/4
    loss = free_cross_entropy(logit, torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 4.0)
    loss.backward()
    assert logit.grad is not None and torch.all(logit.grad[1] == 0.0)  # nothing is known of the second sample
