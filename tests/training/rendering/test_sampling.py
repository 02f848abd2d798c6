"""Where fields are sampled: along rays, in the view, and in balls around surfaces."""

import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.rendering.patches import inverse_depth_samples, surface_centres

CAMERA = Camera(fx=40.0, fy=40.0, cx=39.5, cy=11.5, width=80, height=24)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_are_uniform_in_inverse_depth_and_stay_in_their_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    t = inverse_depth_samples((2, 5), 64, 3.0, 80.0, generator=generator)
    s = (1 / 3.0 - 1 / t) / (1 / 3.0 - 1 / 80.0)  # the uniform variable behind the distance
    assert torch.all(s * 64 >= torch.arange(64) - 1e-3)
    assert torch.all(s * 64 <= torch.arange(1, 65) + 1e-3)
    middle = inverse_depth_samples((1,), 2, 3.0, 80.0, jitter=False)[0]
    assert middle.tolist() == pytest.approx([1 / (0.75 / 3 + 0.25 / 80), 1 / (0.25 / 3 + 0.75 / 80)])


def test_centres_come_from_every_depth_and_keep_apart() -> None:
    depth = torch.linspace(4.0, 60.0, 80).expand(24, 80).clone()
    depth[0] = 200.0  # sky
    for seed in range(5):
        centres = surface_centres(depth, CAMERA, 5, 3.0, _generator(seed))
        assert centres.shape == (5, 3)
        assert centres[:, 2].max() < 100.0
        bins = torch.bucketize(centres[:, 2], torch.linspace(4.0, 60.0, 6)[1:-1])
        assert (bins - torch.arange(5)).abs().max() <= 1  # one of each fifth of the pixels
        assert torch.pdist(centres).min() >= 3.0
    # They lie on the surface: projected, each has the depth of its pixel.
    u = centres[:, 0] / centres[:, 2] * CAMERA.fx + CAMERA.cx
    v = centres[:, 1] / centres[:, 2] * CAMERA.fy + CAMERA.cy
    assert torch.allclose(depth[v.round().long(), u.round().long()], centres[:, 2], atol=1e-3)
