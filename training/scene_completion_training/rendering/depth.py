"""Depth and features rendered from a field at evaluation: no jitter, pinhole rays of the encoder view."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.networks.feature_field import FeatureObservation
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.patches import composite_features, heaviest_samples, render_rays
from scene_completion_training.rendering.rays import rays_of_pixels

_CHUNK = 1 << 11  # rays in memory at a time
_HEAVIEST = 8  # samples of a ray whose features are composited


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


@torch.no_grad()
def render_features(seen: FeatureObservation, camera: Camera, *, samples: int = 64) -> Tensor:
    """Renders the features [D, H, W] that the encoder view sees, in the space of the targets, of any length.

    Features are composited as in the training, from the heaviest samples of each ray, and expanded then.

    Args:
        camera: Its camera, at the resolution that is wanted.
        samples: Samples a ray, even in inverse distance.
    """
    device = seen.features_map.device
    v, u = torch.meshgrid(
        torch.arange(camera.height, device=device), torch.arange(camera.width, device=device), indexing="ij"
    )
    pixels = torch.stack([u, v], dim=-1).reshape(1, -1, 2)
    parts = [_rendered(seen, camera, part, samples) for part in torch.split(pixels, _CHUNK, dim=1)]
    return torch.cat(parts, dim=1)[0].T.reshape(-1, camera.height, camera.width)


def _rendered(seen: FeatureObservation, camera: Camera, pixels: Tensor, samples: int) -> Tensor:
    """Expanded features [1, R, D] of the rays through pixels [1, R, 2]."""
    spec = seen.field.spec
    pose = torch.eye(4, device=pixels.device)[None, None]
    view = torch.zeros(pixels.shape[:2], dtype=torch.long, device=pixels.device)
    rays = rays_of_pixels(camera, pose, view, pixels, 1)
    rendered = render_rays(seen, rays, samples=samples, near=spec.near, far=spec.far, jitter=False)
    chosen, weights = heaviest_samples(rendered, _HEAVIEST)
    return seen.field.expand(composite_features(seen.features(chosen), weights))
