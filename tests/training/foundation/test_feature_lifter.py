"""Lifting features of views to points: who sees what, and what they say together."""

import pytest
import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.foundation.backbone import FeatureLifter, TokenMaps

CAMERA = Camera(40.0, 40.0, 31.5, 15.5, 64, 32)
LIFTER = FeatureLifter(CAMERA, voxel_size=0.2)


def poses(*places: tuple[float, float, float]) -> Tensor:
    """Views that look ahead from places."""
    out = torch.eye(4).repeat(len(places), 1, 1)
    out[:, :3, 3] = torch.tensor(places)
    return out


def maps(*values: float, cell: int = 8) -> TokenMaps:
    """Maps [V, 2, 4, 8] of two channels, (value, 1)."""
    tokens = torch.stack([torch.tensor([value, 1.0])[:, None, None].expand(2, 4, 8) for value in values])
    return TokenMaps(tokens, torch.zeros(len(values), 2), cell)


def surface(*depths: float) -> Tensor:
    return torch.stack([torch.full((32, 64), depth) for depth in depths])


def test_the_mean_of_the_views_that_see_a_point_in_any_order() -> None:
    points = torch.tensor([[0.0, 0.0, 10.0]])
    two = poses((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    found = LIFTER(points, {"t": maps(2.0, 6.0)}, two, surface(10.0, 10.0))["t"]
    assert found.mean.tolist() == [[4.0, 1.0]] and found.views.tolist() == [2]
    other = LIFTER(points, {"t": maps(6.0, 2.0)}, two.flip(0), surface(10.0, 10.0))["t"]
    assert torch.equal(found.mean, other.mean)


def test_what_is_hidden_behind_the_camera_or_beside_the_image_is_not_seen() -> None:
    points = torch.tensor([[0.0, 0.0, 20.0], [0.0, 0.0, -10.0], [50.0, 0.0, 10.0], [0.0, 0.0, 0.0]])
    found = LIFTER(points, {"t": maps(2.0)}, poses((0.0, 0.0, 0.0)), surface(10.0))["t"]
    assert found.views.tolist() == [0, 0, 0, 0]
    assert not found.mean.any()


def test_tokens_are_read_where_they_lie() -> None:
    """Token (r, c) of a shifted grid covers the pixels [8 r + dy, 8 r + dy + 8)."""
    tokens = torch.arange(32.0).reshape(1, 1, 4, 8)
    found = LIFTER.sampled(
        TokenMaps(tokens, torch.tensor([[3.0, -2.0]]), 8), 0, torch.tensor([[3.0 + 19.5, -2.0 + 11.5]])
    )
    assert found.item() == pytest.approx(10.0, abs=1e-5)  # row 1, column 2: its centre
