"""Rays, sampling and compositing against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_ros.voxels.occupancy import composite
from scene_completion_training.rendering.colours import sample_colours
from scene_completion_training.rendering.rays import rays_of_pixels, sample_patch_rays
from scene_completion_training.rendering.sampling import inverse_depth_samples

CAMERA = Camera(fx=100.0, fy=90.0, cx=31.5, cy=15.5, width=64, height=32)


def test_samples_are_uniform_in_inverse_depth_and_stay_in_their_interval() -> None:
    generator = torch.Generator().manual_seed(0)
    t = inverse_depth_samples((2, 5), 64, 3.0, 80.0, generator=generator)
    s = (1 / 3.0 - 1 / t) / (1 / 3.0 - 1 / 80.0)  # the uniform variable behind the distance
    assert torch.all(s * 64 >= torch.arange(64) - 1e-3)
    assert torch.all(s * 64 <= torch.arange(1, 65) + 1e-3)
    middle = inverse_depth_samples((1,), 2, 3.0, 80.0, jitter=False)[0]
    assert middle.tolist() == pytest.approx([1 / (0.75 / 3 + 0.25 / 80), 1 / (0.25 / 3 + 0.75 / 80)])


def test_slab_depth_is_the_analytic_one() -> None:
    """Constant σ from 10 m on: expected termination 10 + 1/σ."""
    sigma = 0.5
    distances = torch.linspace(3.0, 80.0, 20_000)[None, None]
    density = torch.where(distances >= 10.0, sigma, 0.0)
    result = composite(density, distances)
    assert result.distance.item() == pytest.approx(10.0 + 1.0 / sigma, abs=0.02)
    assert result.weights.sum().item() == pytest.approx(1.0, abs=1e-5)


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


def test_patches_come_from_loss_views_and_are_square() -> None:
    poses = torch.eye(4).expand(2, 4, 4, 4)
    loss_views = torch.tensor([[1, 3], [0, 2]])
    rays = sample_patch_rays(CAMERA, poses, loss_views, patches=5, generator=torch.Generator().manual_seed(1))
    assert rays.pixel.shape == (2, 5 * 64, 2)
    assert set(rays.view[0].tolist()) <= {1, 3} and set(rays.view[1].tolist()) <= {0, 2}
    patch = rays.pixel[0, :64].reshape(8, 8, 2)
    assert torch.equal(patch[1, 0] - patch[0, 0], torch.tensor([0, 1]))
    assert torch.equal(patch[0, 1] - patch[0, 0], torch.tensor([1, 0]))
    assert rays.pixel[..., 0].max() < 64 and rays.pixel[..., 1].max() < 32


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
