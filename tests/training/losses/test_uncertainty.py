"""Learned weights of losses: their optima, and what they do not depend on."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.losses.uncertainty import UncertaintyWeights

# Optima p for a constant loss: p² = (L + √(L² + 8L)) / 4.
OPTIMA = {0.05: 0.4137, 0.2: 0.6084, 0.5: 0.8002, 1.0: 1.0, 2.0: 1.2720}


def test_descent_finds_the_closed_optimum_of_each_loss_alone() -> None:
    weights = UncertaintyWeights(list(map(str, OPTIMA))).double()
    values = {str(loss): torch.tensor(loss, dtype=torch.float64) for loss in OPTIMA}
    descent = torch.optim.Adam(weights.parameters(), 0.05)
    for _ in range(400):
        descent.zero_grad()
        weights(values).backward()
        descent.step()
    for loss, expected in OPTIMA.items():
        assert weights.uncertainties[str(loss)] == pytest.approx(expected, abs=1e-3)
    assert float(weights(values)) >= 0.0


def test_the_released_form_starts_at_its_optimum_for_losses_of_one() -> None:
    weights = UncertaintyWeights(["a", "b", "c"])
    weights({name: torch.tensor(1.0) for name in "abc"}).backward()
    assert [p.grad.item() for p in weights.parameters() if p.grad is not None] == pytest.approx([0.0] * 3, abs=1e-7)
