"""The loss on inverse depth, and the depth of a block of pixels, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.dense_depth import block_depth, log_inverse_depth_loss

from scene_completion_ros.inference.point_code import PointCodeSpec


def test_dense_depth_is_the_log_error_of_inverse_depth() -> None:
    """10 m predicted where 8 m was measured: log((1/8 + 0.002) / (1/10 + 0.002)); wild errors count as the cap."""
    spec = PointCodeSpec()
    hint = torch.tensor([8.0, 0.0, 60.0])
    code = torch.stack([spec.depth_code(torch.tensor(10.0)), torch.tensor(9.0), torch.tensor(9.0)])
    expected = (math.log(0.127 / 0.102) + 1.0) / 2
    assert log_inverse_depth_loss(code, hint, spec).item() == pytest.approx(expected, rel=1e-5)
    assert log_inverse_depth_loss(code, torch.zeros(3), spec).item() == 0.0


def test_dense_depth_costs_too_far_and_too_near_the_same_and_pulls_from_beyond_infinity() -> None:
    spec = PointCodeSpec()
    hint = torch.full((1,), 10.0)
    near, far = (
        log_inverse_depth_loss(spec.depth_code(torch.tensor([d])), hint, spec, offset=0.0) for d in (7.0, 100 / 7)
    )
    assert near.item() == pytest.approx(far.item(), rel=1e-4)
    beyond = torch.full((1,), -1.2, requires_grad=True)  # a negative inverse depth
    log_inverse_depth_loss(beyond, torch.full((1,), 70.0), spec, cap=10.0).backward()
    assert beyond.grad is not None and beyond.grad.item() < 0.0


def test_block_depth_is_the_depth_at_the_centre_of_a_plane() -> None:
    """Inverse depth is linear on a plane: its mean over a block is its value at the block's centre."""
    u = torch.arange(8.0)
    depth = (1.0 / (0.02 + 0.01 * u)).expand(1, 4, 8).clone()
    blocks = block_depth(depth, 4)
    assert blocks[0, 0].tolist() == pytest.approx([1 / (0.02 + 0.01 * 1.5), 1 / (0.02 + 0.01 * 5.5)])
    depth[:] = 0.0
    depth[0, 1, 2] = 7.0
    assert block_depth(depth, 4)[0, 0].tolist() == pytest.approx([7.0, 0.0])
