"""Depth and features rendered from a field at evaluation: no jitter, pinhole rays of the encoder view."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.networks.feature_field import FeatureObservation
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.patches import composite_features, render_rays
from scene_completion_training.rendering.rays import image_rays


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
    """Renders the z-depth [H / stride, W / stride], metres, of every stride-th pixel of the first encoder view."""
    depth = [
        render_rays(field, rays, samples=samples, near=near, far=far, jitter=False).depth[0]
        for rays in image_rays(camera, torch.eye(4, device=device), stride=stride)
    ]
    return torch.cat(depth).reshape(-1, len(range(0, camera.width, stride)))


def rendered_features(
    field: FeatureObservation, camera: Camera, *, near: float, far: float, device: torch.device, samples: int = 32
) -> Iterator[Tensor]:
    """Features [R, channels] of the pixels that the encoder view sees, composited along rays, before the expansion.

    Pixels come row by row, so many at a time as fit into memory. SceneDINO is evaluated with 32 samples a ray.
    """
    for rays in image_rays(camera, torch.eye(4, device=device)):
        rendered = render_rays(field, rays, samples=samples, near=near, far=far, jitter=False)
        yield composite_features(field.features(rendered.points), rendered.weights)[0]
