from __future__ import annotations

import torch
from scene_completion_training.rendering.patches import invalid_rays


def test_ray_is_invalid_only_if_every_source_lacks_more_than_ninety_percent() -> None:
    weights = torch.tensor([[[0.9, 0.1], [0.95, 0.05], [0.95, 0.05]]])  # [B, R, K]
    invalid = torch.tensor([[[[True, False]] * 3, [[True, False], [True, False], [False, False]]]])  # [B, S, R, K]
    assert invalid_rays(weights, invalid).tolist() == [[False, True, False]]
