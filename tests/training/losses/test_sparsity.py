from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.sparsity import mean_opacity


def test_mean_opacity_of_equal_densities() -> None:
    assert mean_opacity(torch.full((1, 3), 5.0), 0.2).item() == pytest.approx(1 - math.exp(-1.0))
