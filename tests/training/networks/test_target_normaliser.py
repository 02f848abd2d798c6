"""What normalised features are worth: variance one, and the way back."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.networks.target_normaliser import TargetNormaliser
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError


def uneven(channels: int, count: int = 4000) -> Tensor:
    """Correlated features of very different spreads."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(count, channels, generator=generator) * torch.logspace(-1, 1, channels)
    return mixed @ torch.randn(channels, channels, generator=generator) + 3.0


def test_standard_gives_every_channel_the_same_variance() -> None:
    features = uneven(10)
    normaliser = TargetNormaliser(10, "standard")
    normaliser.fit(features)
    assert torch.allclose(normaliser(features).var(dim=0), torch.ones(10), atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "standard"])
def test_the_way_back_is_linear_and_exact(kind: str) -> None:
    features = uneven(12)
    normaliser = TargetNormaliser(12, kind)  # type: ignore[arg-type]
    normaliser.fit(features)
    back, offset = normaliser.inverse()
    assert torch.allclose(normaliser(features) @ back.T + offset, features, atol=1e-3)
    again = TargetNormaliser.like(normaliser.offset, normaliser.matrix)
    again.load_state_dict(normaliser.state_dict())
    assert again.kind == kind and torch.equal(again(features), normaliser(features))


def test_a_channel_that_never_changes_and_features_that_are_no_numbers() -> None:
    features = uneven(4)
    features[:, 2] = 1.0
    normaliser = TargetNormaliser(4, "standard")
    normaliser.fit(features)
    assert torch.isfinite(normaliser(features)).all()
    features[0, 0] = float("nan")
    with pytest.raises(ConfigurationError, match="not finite"):
        normaliser.fit(features)
