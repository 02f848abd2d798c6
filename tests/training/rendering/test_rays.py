"""Rays of pixels, the patches they are drawn in, and the colours of their points."""

import numpy as np
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.rendering.patches import invalid_rays, rays_of_pixels, sample_colours

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
