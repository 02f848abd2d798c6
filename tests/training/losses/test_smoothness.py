from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.smoothness import edge_aware_smoothness


def test_smoothness_is_zero_on_constant_depth_and_forgives_image_edges() -> None:
    image = torch.zeros(1, 3, 8, 8)
    assert edge_aware_smoothness(torch.full((1, 8, 8), 7.0), image).item() == 0.0
    step = torch.full((1, 8, 8), 5.0)
    step[..., 4:] = 20.0
    edge = image.clone()
    edge[..., 4:] = 1.0
    flat_cost, edge_cost = edge_aware_smoothness(step, image), edge_aware_smoothness(step, edge)
    assert edge_cost.item() == pytest.approx(flat_cost.item() * math.exp(-1.0), rel=1e-5)
