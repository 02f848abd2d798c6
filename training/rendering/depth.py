"""Depth rendered from a density field at evaluation: no jitter, pinhole rays of the encoder view."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.rays import rays_of_pixels
from scene_completion_training.rendering.volume import composite, inverse_depth_samples


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
    """Renders the z-depth the first encoder view sees, without jitter.

    Args:
        field: The density field with one image encoded (or one set of views).
        camera: Its camera.
        near: Nearest sample, metres.
        far: Farthest sample, metres.
        device: Where the field is.
        stride: Every how many pixels a ray is cast.
        samples: Samples per ray.

    Returns:
        z-depth [H / stride, W / stride], metres.
    """
    v, u = torch.meshgrid(
        torch.arange(0, camera.height, stride, device=device),
        torch.arange(0, camera.width, stride, device=device),
        indexing="ij",
    )
    pixel = torch.stack([u, v], dim=-1).reshape(1, -1, 2)
    pose = torch.eye(4, device=device)[None, None]
    rays = rays_of_pixels(camera, pose, torch.zeros(pixel.shape[:2], dtype=torch.long, device=device), pixel, 1)
    distances = inverse_depth_samples(tuple(rays.cosine.shape), samples, near, far, jitter=False, device=device)
    points = rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]
    density = field.density(points.flatten(1, 2)).reshape(distances.shape)
    depth = composite(density, distances).distance * rays.cosine
    return depth.reshape(u.shape)
