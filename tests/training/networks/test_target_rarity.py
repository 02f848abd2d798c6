"""Rare kinds of targets count for more."""

import pytest
import torch

from scene_completion_training.networks.target_rarity import KINDS, TargetRarity


def kinds(rare: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As many kinds as clusters, the first `rare` of which come ten times, the others a hundred times."""
    counts = torch.tensor([10] * rare + [100] * (KINDS - rare))
    number = torch.arange(KINDS).repeat_interleave(counts)
    return torch.eye(KINDS)[number] + 0.01 * torch.randn(len(number), KINDS), number < rare


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_go_as_a_power_of_the_share(power: float) -> None:
    torch.manual_seed(0)
    targets, rare = kinds(8)
    rarity = TargetRarity(KINDS, power)
    rarity.fit(targets, seed=0)
    weights = rarity(5.0 * targets)  # of any length
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-3)
    assert (weights[rare].mean() / weights[~rare].mean()).item() == pytest.approx(10.0**power, rel=0.05)
