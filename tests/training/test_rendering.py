"""Rays of pixels, the colours of their points, and where fields are sampled: along rays and around surfaces."""

import numpy as np
import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.rendering import (
    five_square_rays,
    invalid_rays,
    inverse_depth_samples,
    rays_of_pixels,
    sample_colours,
    surface_centres,
    surface_points,
)

CAMERA = Camera(fx=100.0, fy=90.0, cx=31.5, cy=15.5, width=64, height=32)


def test_rays_point_through_their_pixels() -> None:
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    pixel = torch.tensor([[[10, 20], [31, 15]]])
    rays = rays_of_pixels(CAMERA, pose[None, None], torch.zeros(1, 2, dtype=torch.long), pixel, 1)
    z = 7.0
    points = rays.origin + rays.direction * (z / rays.cosine)[..., None] - pose[:3, 3]
    projected, _ = CAMERA.project(points.numpy()[0].astype(np.float64))
    np.testing.assert_allclose(projected, pixel[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(points[0, :, 2], z, rtol=1e-6)
    np.testing.assert_allclose(rays.direction.norm(dim=-1), 1.0, rtol=1e-6)


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


def test_ray_is_invalid_only_if_every_source_lacks_more_than_ninety_percent() -> None:
    weights = torch.tensor([[[0.9, 0.1], [0.95, 0.05], [0.95, 0.05]]])  # [B, R, K]
    invalid = torch.tensor([[[[True, False]] * 3, [[True, False], [True, False], [False, False]]]])  # [B, S, R, K]
    assert invalid_rays(weights, invalid).tolist() == [[False, True, False]]


def test_samples_are_uniform_in_inverse_depth_and_stay_in_their_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    t = inverse_depth_samples((2, 5), 64, 3.0, 80.0, generator=generator)
    s = (1 / 3.0 - 1 / t) / (1 / 3.0 - 1 / 80.0)  # the uniform variable behind the distance
    assert torch.all(s * 64 >= torch.arange(64) - 1e-3)
    assert torch.all(s * 64 <= torch.arange(1, 65) + 1e-3)
    middle = inverse_depth_samples((1,), 2, 3.0, 80.0, jitter=False)[0]
    assert middle.tolist() == pytest.approx([1 / (0.75 / 3 + 0.25 / 80), 1 / (0.25 / 3 + 0.75 / 80)])


def test_centres_come_from_every_depth_and_keep_apart() -> None:
    wide = Camera(fx=40.0, fy=40.0, cx=39.5, cy=11.5, width=80, height=24)
    depth = torch.linspace(4.0, 60.0, 80).expand(24, 80).clone()
    depth[0] = 200.0  # sky
    for seed in range(5):
        centres = surface_centres(depth, wide, 5, 3.0, torch.Generator().manual_seed(seed))
        assert centres.shape == (5, 3)
        assert centres[:, 2].max() < 100.0
        bins = torch.bucketize(centres[:, 2], torch.linspace(4.0, 60.0, 6)[1:-1])
        assert (bins - torch.arange(5)).abs().max() <= 1  # one of each fifth of the pixels
        assert torch.pdist(centres).min() >= 3.0
    # They lie on the surface: projected, each has the depth of its pixel. So have points of any pixels.
    anywhere = surface_points(depth, wide, 500, torch.Generator().manual_seed(0))
    assert anywhere.shape == (500, 3) and anywhere[:, 2].max() < 100.0 and anywhere[:, 2].std() > 10.0
    for x, y, z in torch.cat([centres, anywhere]):
        assert depth[int((y / z * wide.fy + wide.cy).round()), int((x / z * wide.fx + wide.cx).round())] == z
    assert surface_points(torch.full((24, 80), 200.0), wide, 500, torch.Generator()).shape == (0, 3)


def test_five_squares_lie_around_the_middle_and_those_of_the_quarters() -> None:
    """Of 24 rows they have 12: with two rays along a side these are 6 pixels apart, 3 from the middle."""
    camera = Camera(fx=40.0, fy=40.0, cx=39.5, cy=11.5, width=80, height=24)
    pixel = five_square_rays(camera, 2, torch.device("cpu")).pixel.reshape(5, 4, 2)
    assert pixel[0].tolist() == [[36.5, 8.5], [42.5, 8.5], [36.5, 14.5], [42.5, 14.5]]
    assert pixel.mean(dim=1).tolist() == [[39.5, 11.5], [19.5, 17.5], [59.5, 17.5], [19.5, 5.5], [59.5, 5.5]]
