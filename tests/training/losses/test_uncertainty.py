"""Learned weights of losses: their optima, and what they do not depend on."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.losses.uncertainty import Form, UncertaintyWeights

from scene_completion_ros.errors import ConfigurationError

# Optima p for a constant loss: p² = (L + √(L² + 8L)) / 4 in the released form, p³ = L (1 + p) in the paper.
OPTIMA = {
    "log1p_sq": {0.05: 0.4137, 0.2: 0.6084, 0.5: 0.8002, 1.0: 1.0, 2.0: 1.2720},
    "log1p": {0.05: 0.4134, 0.2: 0.6976, 0.5: 1.0, 1.0: 1.3247, 2.0: 1.7693},
}


def optimised(losses: dict[str, float], form: Form, steps: int = 3000) -> tuple[dict[str, float], float]:
    """Uncertainties after a descent at constant losses, and the total there."""
    weights = UncertaintyWeights(list(losses), form).double()
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in losses.items()}
    descent = torch.optim.Adam(weights.parameters(), 0.02)
    for _ in range(steps):
        descent.zero_grad()
        weights(values).backward()
        descent.step()
    return weights.uncertainties, float(weights(values).detach())


@pytest.mark.parametrize("form", ["log1p_sq", "log1p"])
def test_descent_finds_the_closed_optimum(form: Form) -> None:
    found, total = optimised({str(loss): loss for loss in OPTIMA[form]}, form)
    for loss, expected in OPTIMA[form].items():
        assert found[str(loss)] == pytest.approx(expected, abs=1e-3)
    assert sorted(found.values()) == list(found.values())  # a larger loss has the larger uncertainty
    assert total >= 0.0


def test_the_released_form_starts_at_its_optimum_for_losses_of_one() -> None:
    weights = UncertaintyWeights(["a", "b", "c"])
    weights({name: torch.tensor(1.0) for name in "abc"}).backward()
    assert [p.grad.item() for p in weights.parameters() if p.grad is not None] == pytest.approx([0.0] * 3, abs=1e-7)


def test_each_loss_moves_its_own_uncertainty_alone() -> None:
    plain, _ = optimised({"a": 0.2, "b": 0.5}, "log1p_sq")
    scaled, _ = optimised({"a": 0.2, "b": 2.0}, "log1p_sq")
    swapped, _ = optimised({"a": 0.5, "b": 0.2}, "log1p_sq")
    assert scaled["a"] == pytest.approx(plain["a"], abs=1e-6)
    assert scaled["b"] > plain["b"]
    assert (swapped["a"], swapped["b"]) == pytest.approx((plain["b"], plain["a"]), abs=1e-6)


def test_fixed_weights_are_the_plain_sum() -> None:
    weights = UncertaintyWeights(["a", "b"], "fixed")
    assert weights({"a": torch.tensor(0.25), "b": torch.tensor(2.0)}).item() == 2.25
    assert not list(weights.parameters()) and not weights.uncertainties


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="log1p_sq"):
        UncertaintyWeights(["a"], "dropout")  # type: ignore[arg-type]
