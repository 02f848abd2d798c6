from __future__ import annotations

import numpy as np
import torch
from scene_completion_training.rendering.colours import sample_colours

from scene_completion_ros.geometry import Camera

CAMERA = Camera(fx=100.0, fy=90.0, cx=31.5, cy=15.5, width=64, height=32)


def test_colours_are_taken_at_the_projection() -> None:
    """An image whose red channel is u and green channel is v gives back the projected pixel."""
    u = torch.arange(64.0).expand(32, 64)
    v = torch.arange(32.0)[:, None].expand(32, 64)
    image = torch.stack([u, v, torch.zeros(32, 64)])[None, None]
    points = torch.tensor([[[0.2, 0.1, 4.0], [0.0, 0.0, -1.0], [9.0, 0.0, 4.0]]])
    mask = torch.ones(1, 1, 32, 64, dtype=torch.bool)
    colours, invalid = sample_colours(image, mask, CAMERA, torch.eye(4)[None, None], points)
    pixel, _ = CAMERA.project(points[0, 0].numpy().astype(np.float64))
    np.testing.assert_allclose(colours[0, 0, 0, :2], pixel, atol=1e-4)
    assert invalid[0, 0].tolist() == [False, True, True]
    mask[..., int(pixel[1]), int(pixel[0])] = False  # one of the four pixels between which the point lies
    assert sample_colours(image, mask, CAMERA, torch.eye(4)[None, None], points)[1][0, 0].tolist() == [True] * 3
