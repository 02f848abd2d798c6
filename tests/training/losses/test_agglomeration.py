"""The loss of each teacher: the one that it asks for, over the points that are known."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.losses.agglomeration import teacher_loss


def test_a_case_by_hand() -> None:
    predicted = torch.tensor([[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    target = torch.tensor([[0.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    known = torch.tensor([True, True, False])
    assert teacher_loss(predicted, target, known, "cosine").item() == pytest.approx((1.0 + 0.0) / 2)
    assert teacher_loss(predicted, target, known, "l1").item() == pytest.approx((1.5 + 0.0) / 2)


def test_the_kind_of_loss_is_really_chosen() -> None:
    """The released code computes the cosine whatever the configuration of a teacher says."""
    torch.manual_seed(0)
    predicted, target, known = torch.randn(20, 8), torch.randn(20, 8), torch.ones(20, dtype=torch.bool)
    cosine, l1 = (teacher_loss(predicted, target, known, kind) for kind in ("cosine", "l1"))  # type: ignore[arg-type]
    assert teacher_loss(3.0 * predicted, target, known, "cosine").item() == pytest.approx(cosine.item(), abs=1e-6)
    assert abs(teacher_loss(3.0 * predicted, target, known, "l1").item() - l1.item()) > 0.1


def test_without_the_channel_mean_a_constant_says_nothing() -> None:
    torch.manual_seed(0)
    predicted, target, known = torch.randn(20, 8), torch.randn(20, 8), torch.ones(20, dtype=torch.bool)
    plain = teacher_loss(predicted, target, known, "cosine", demean=True)
    for moved in ((predicted, target + 7.0), (predicted - 5.0, target)):
        assert teacher_loss(*moved, known, "cosine", demean=True).item() == pytest.approx(plain.item(), abs=1e-5)
    assert abs(teacher_loss(predicted, target + 7.0, known, "cosine").item() - plain.item()) > 0.01


def test_nothing_known_costs_nothing_and_leaves_finite_gradients() -> None:
    predicted = torch.randn(4, 3, requires_grad=True)
    loss = teacher_loss(predicted, torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool), "l1")
    loss.backward()
    assert loss.item() == 0.0 and predicted.grad is not None and not predicted.grad.any()
