"""Depth rendered from a field at evaluation: no jitter, pinhole rays of the encoder view."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.patches import render_rays
from scene_completion_training.rendering.rays import rays_of_pixels


@torch.no_grad()
def render_depth(
    field: ObservedField,
    camera: Camera,
    *,
    near: float,
    far: float,
    device: torch.device,
    stride: int = 4,
    samples: int = 64,
) -> Tensor:
    """Renders the z-depth [H / stride, W / stride], metres, that the first encoder view sees, without jitter.

    Args:
        field: The density field with one image encoded (or one set of views).
        stride: Every how many pixels a ray is cast.
    """
    v, u = torch.meshgrid(
        torch.arange(0, camera.height, stride, device=device),
        torch.arange(0, camera.width, stride, device=device),
        indexing="ij",
    )
    pixel = torch.stack([u, v], dim=-1).reshape(1, -1, 2)
    pose = torch.eye(4, device=device)[None, None]
    rays = rays_of_pixels(camera, pose, torch.zeros(pixel.shape[:2], dtype=torch.long, device=device), pixel, 1)
    return render_rays(field, rays, samples=samples, near=near, far=far, jitter=False).depth.reshape(u.shape)
