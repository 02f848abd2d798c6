from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.emptiness import free_cross_entropy


def test_emptiness_is_the_cross_entropy_against_free() -> None:
    logit = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]], requires_grad=True)  # p = 1/2 and 3/4
    loss = free_cross_entropy(logit, torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 4.0)
    loss.backward()
    assert logit.grad is not None and torch.all(logit.grad[1] == 0.0)  # nothing is known of the second sample
