"""The folded encoder of a bundle."""

from __future__ import annotations

import torch

from scene_completion_training.export import fold


def test_folding_two_convolutions_is_exact() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(5, 7, 1).double(), torch.nn.Conv2d(7, 3, 1, bias=False).double()
    x = torch.rand(2, 5, 4, 4, dtype=torch.float64)
    folded = fold(first, second).double()
    assert torch.allclose(folded(x), second(first(x)), atol=1e-6)
