from __future__ import annotations

import math

import pytest
import torch
from scene_completion_training.losses.stereo_depth import log_depth_loss


def test_stereo_depth_by_hand_and_without_hints() -> None:
    rendered = torch.tensor([10.0, 12.0, 30.0], requires_grad=True)
    hint = torch.tensor([10.0, 10.0, 0.0])
    loss = log_depth_loss(rendered, hint)
    assert loss.item() == pytest.approx(math.log(1 + 2.0 / 2.0) / 2)
    nothing = log_depth_loss(rendered, torch.zeros(3))
    nothing.backward()
    assert nothing.item() == 0.0 and torch.all(rendered.grad == 0)
