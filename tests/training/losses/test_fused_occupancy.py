"""The cross-entropy of occupancy against an independent formula."""

from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.fused_occupancy import occupancy_cross_entropy
from scene_completion_training.networks.occupancy_link import OccupancyLink
from torch.nn import functional


def test_occupancy_cross_entropy_is_that_of_the_linked_sigmoid() -> None:
    torch.manual_seed(1)
    logit = torch.randn(2, 50, dtype=torch.float64) * 3
    target, weight = torch.rand(2, 50, dtype=torch.float64), torch.rand(2, 50, dtype=torch.float64)
    link = OccupancyLink(3.0).double()
    with torch.no_grad():
        link.log_scale.fill_(math.log(2.0))
    probability = 1 / (1 + torch.exp(-(2.0 * logit + 3.0)))
    expected = functional.binary_cross_entropy(probability, target, weight=weight, reduction="sum") / weight.sum()
    assert occupancy_cross_entropy(link(logit), target, weight).item() == pytest.approx(expected.item(), rel=1e-9)
    grown = logit.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: occupancy_cross_entropy(link(x), target, weight), (grown,))


def test_occupancy_cross_entropy_without_evidence_is_zero() -> None:
    logit = torch.randn(1, 4, requires_grad=True)
    loss = occupancy_cross_entropy(logit, torch.ones(1, 4), torch.zeros(1, 4))
    loss.backward()
    assert loss.item() == 0.0 and torch.all(logit.grad == 0)
