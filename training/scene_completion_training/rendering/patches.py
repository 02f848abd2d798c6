"""Patches of loss views rendered through an observed density field."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_ros.voxels.occupancy import composite, density_of_logit
from scene_completion_training.networks.feature_field import FeatureObservation
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.rays import Rays, image_rays, sample_patch_rays
from scene_completion_training.rendering.sampling import inverse_depth_samples


@dataclass(frozen=True, eq=False)
class RenderedPatches:
    """Rays of patches and what the field says along them."""

    rays: Rays
    distances: Tensor  # samples along them [B, R, K], metres
    points: Tensor  # the samples [B, R·K, 3], first encoder view's optical frame, metres
    logit: Tensor  # density before softplus of the samples [B, R, K]
    weights: Tensor  # compositing weights [B, R, K]
    depth: Tensor  # expected z-depth of each ray in its view [B, R], metres


def render_patches(
    field: ObservedField,
    camera: Camera,
    encoder_from_view: Tensor,
    loss_views: Tensor,
    *,
    patches: int,
    samples: int,
    near: float,
    far: float,
    generator: torch.Generator | None = None,
) -> RenderedPatches:
    """Renders random patches of the loss views, with samples from near to far, metres; see `sample_patch_rays`."""
    rays = sample_patch_rays(camera, encoder_from_view, loss_views, patches=patches, generator=generator)
    return render_rays(field, rays, samples=samples, near=near, far=far, generator=generator)


def render_rays(
    field: ObservedField,
    rays: Rays,
    *,
    samples: int,
    near: float,
    far: float,
    generator: torch.Generator | None = None,
    jitter: bool = True,
) -> RenderedPatches:
    """Renders rays of patches, see `render_patches`; without jitter at evaluation."""
    distances = inverse_depth_samples(
        tuple(rays.cosine.shape), samples, near, far, generator=generator, jitter=jitter, device=rays.cosine.device
    )
    points = (rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]).flatten(1, 2)
    logit = field.density_logit(points).reshape(distances.shape)
    composed = composite(density_of_logit(logit), distances)
    return RenderedPatches(rays, distances, points, logit, composed.weights, composed.distance * rays.cosine)


def heaviest_samples(rendered: RenderedPatches, count: int) -> tuple[Tensor, Tensor]:
    """The samples of each ray that weigh most: their points [B, R·count, 3] and weights [B, R, count]."""
    weights, index = rendered.weights.topk(min(count, rendered.weights.shape[-1]), dim=-1)
    points = rendered.points.reshape(*rendered.weights.shape, 3)
    return torch.gather(points, 2, index[..., None].expand(-1, -1, -1, 3)).flatten(1, 2), weights


def composite_features(features: Tensor, weights: Tensor) -> Tensor:
    """Features of rays [B, R, C]: mean of those of their samples [B, R·K, C], weighted with weights [B, R, K].

    The weights are divided by their sum, so that a surface has the same features whichever samples were left out.
    """
    share = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("brk,brkc->brc", share, features.reshape(*weights.shape, -1))


def invalid_rays(weights: Tensor, invalid: Tensor) -> Tensor:
    """`weight_guided` policy [B, R]: a ray is invalid if more than 0.9 of its weight is invalid in every source view.

    Of weights [B, R, K], and of where no colour could be sampled, per sample and source [B, S, R, K].
    """
    mass = (weights[:, None] * invalid).sum(dim=-1)  # [B, S, R]
    return (mass > 0.9).all(dim=1)


def observed_values(views: Tensor, rendered: RenderedPatches) -> Tensor:
    """Values [B, R, C] of views [B, V, C, H, W] at the rays' pixels, or the nearest ones."""
    rays = rendered.rays
    pixel = rays.pixel.round().long() if rays.pixel.is_floating_point() else rays.pixel
    u, v = pixel[..., 0], pixel[..., 1]
    return views[torch.arange(u.shape[0], device=u.device)[:, None].expand_as(u), rays.view, :, v, u]


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
