"""The correspondence loss by hand, and what is estimated of the data."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.losses.feature_correspondence import ATTRACTED, correspondence_loss, estimate_forces


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_correspondence_by_hand() -> None:
    """One pair of points: −max(S^h, 0) (S^f − b)."""
    first, second = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.8]]])
    assert correspondence_loss(first, second, first, second, 0.2).item() == pytest.approx(-0.6 * (0.6 - 0.2))
    assert correspondence_loss(first, second, first, second, 0.9).item() == pytest.approx(0.6 * 0.3)
    assert correspondence_loss(first, second, first, -second, 0.2).item() == 0.0


def test_estimated_shifts_attract_the_share_they_should() -> None:
    similarities = {
        "self": 0.5 + 0.2 * torch.randn(5000, generator=_generator(1)),
        "similar": 0.4 + 0.1 * torch.randn(5000, generator=_generator(2)),
        "random": 0.1 * torch.randn(5000, generator=_generator(3)),
    }
    forces = estimate_forces(similarities)
    for pair, force in forces.items():
        assert (similarities[pair] > force.shift).float().mean().item() == pytest.approx(ATTRACTED[pair], abs=0.01)
    assert sum(force.weight for force in forces.values()) == pytest.approx(1.0)
    pull = [force.weight * (similarities[pair] - force.shift).abs().mean().item() for pair, force in forces.items()]
    assert pull == pytest.approx([pull[0]] * 3, rel=1e-4)
