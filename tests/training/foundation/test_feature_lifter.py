"""Lifting features of views to points: who sees what, and what they say together."""

import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.foundation.feature_lifter import FeatureLifter, TokenMaps

CAMERA = Camera(40.0, 40.0, 31.5, 15.5, 64, 32)
LIFTER = FeatureLifter(CAMERA, voxel_size=0.2)


def test_tokens_are_read_where_they_lie() -> None:
    """Token (r, c) of a shifted grid covers the pixels [8 r + dy, 8 r + dy + 8)."""
    tokens = torch.arange(32.0).reshape(1, 1, 4, 8)
    found = LIFTER.sampled(
        TokenMaps(tokens, torch.tensor([[3.0, -2.0]]), 8), 0, torch.tensor([[3.0 + 19.5, -2.0 + 11.5]])
    )
    assert found.item() == pytest.approx(10.0, abs=1e-5)  # row 1, column 2: its centre
