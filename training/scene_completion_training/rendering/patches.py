"""Patches of loss views rendered through an observed density field, in colours of posed source views."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_ros.voxels.occupancy import composite, density_of_logit
from scene_completion_training.networks.density_field import ObservedField
from scene_completion_training.networks.feature_field import FeatureObservation
from scene_completion_training.rendering.rays import Rays, image_rays, inverse_depth_samples, sample_patch_rays


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
    field: ObservedField, camera: Camera, encoder_from_view: Tensor, loss_views: Tensor,
    *,
    patches: int, samples: int, near: float, far: float, generator: torch.Generator | None = None,
) -> RenderedPatches:  # fmt: skip
    """Renders random patches of the loss views, with samples from near to far, metres; see `sample_patch_rays`."""
    rays = sample_patch_rays(camera, encoder_from_view, loss_views, patches=patches, generator=generator)
    return render_rays(field, rays, samples=samples, near=near, far=far, generator=generator)


def render_rays(
    field: ObservedField, rays: Rays,
    *,
    samples: int, near: float, far: float, generator: torch.Generator | None = None, jitter: bool = True,
) -> RenderedPatches:  # fmt: skip
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
    """Features of rays [B, R, C]: mean of samples [B, R·K, C] by weights [B, R, K], whichever were left out."""
    share = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("brk,brkc->brc", share, features.reshape(*weights.shape, -1))


def invalid_rays(weights: Tensor, invalid: Tensor) -> Tensor:
    """`weight_guided` [B, R]: over 0.9 of the weight [B, R, K] is invalid in every source view [B, S, R, K]."""
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
    field: ObservedField, camera: Camera,
    *,
    near: float, far: float, device: torch.device, stride: int = 4, samples: int = 64,
) -> Tensor:  # fmt: skip
    """Renders the z-depth [H / stride, W / stride], metres, of every stride-th pixel of the first encoder view."""
    depth = [
        render_rays(field, rays, samples=samples, near=near, far=far, jitter=False).depth[0]
        for rays in image_rays(camera, torch.eye(4, device=device), stride=stride)
    ]
    return torch.cat(depth).reshape(-1, len(range(0, camera.width, stride)))


def rendered_features(
    field: FeatureObservation, camera: Camera, *, near: float, far: float, device: torch.device, samples: int = 32
) -> Iterator[Tensor]:
    """Features [R, channels] of pixels, row by row, along rays (in SceneDINO of 32 samples), not expanded."""
    for rays in image_rays(camera, torch.eye(4, device=device)):
        rendered = render_rays(field, rays, samples=samples, near=near, far=far, jitter=False)
        yield composite_features(field.features(rendered.points), rendered.weights)[0]


def sample_colours(
    images: Tensor, masks: Tensor, camera: Camera, view_from_encoder: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Samples source images at the projections of points [B, N, 3], metres, encoder view's optical frame.

    `images`: [B, S, 3, H, W] in 0..1; `masks`: where they show the world, bool [B, S, H, W]; `view_from_encoder`: poses
    [B, S, 4, 4]. Returns colours [B, S, N, 3] and a flag [B, S, N], true where a point does not project into the source
    image, or to where that does not show the world.
    """
    batch, sources = images.shape[:2]
    local = (
        torch.einsum("bsij,bnj->bsni", view_from_encoder[..., :3, :3], points) + view_from_encoder[:, :, None, :3, 3]
    )
    depth = local[..., 2].clamp_min(1e-3)
    x = (2.0 * (camera.fx * local[..., 0] / depth + camera.cx) + 1.0) / camera.width - 1.0
    y = (2.0 * (camera.fy * local[..., 1] / depth + camera.cy) + 1.0) / camera.height - 1.0
    grid = torch.stack([x, y], dim=-1)  # [B, S, N, 2]
    invalid = (local[..., 2] <= 1e-3) | (grid.abs() > 1.0).any(dim=-1)
    masked = torch.cat([images, masks[:, :, None].to(images.dtype)], dim=2).flatten(0, 1)
    places = grid.flatten(0, 1)[:, None].clamp(-2.0, 2.0)  # sampled are [B·S, 4, 1, N]
    sampled = functional.grid_sample(masked, places, mode="bilinear", padding_mode="border", align_corners=False)
    values = sampled[:, :, 0].transpose(1, 2).reshape(batch, sources, -1, 4)
    return values[..., :3], invalid | (values[..., 3] < 1.0 - 1e-4)


@dataclass(frozen=True, eq=False)
class SynthesisedPatches:
    """Patches of loss views as they were seen, and as other views show what the field says of them."""

    observed: Tensor  # colours of the loss views [P, 3, h, w] in 0..1
    rendered: Tensor  # the same from each source view [P, S, 3, h, w]
    invalid: Tensor  # rays that no source view can supervise, or whose pixel does not show the world [P, h, w]
    depth: Tensor  # expected z-depth [P, h, w], metres


def synthesised_patches(
    field: ObservedField, camera: Camera, rendered: RenderedPatches, batch: dict[str, Tensor], source_views: Tensor
) -> SynthesisedPatches:
    """Gives patches the colours that source views [B, S] of the batch have there; unseen samples are guesses."""
    size = rendered.rays.patch_size
    patches = observed_values(batch["views"], rendered).reshape(-1, size, size, 3).permute(0, 3, 1, 2)
    sources, masks, poses = (
        torch.stack([views[index] for views, index in zip(batch[key], source_views, strict=True)])
        for key in ("views", "masks", "encoder_from_view")
    )
    colours, outside = sample_colours(sources, masks, camera, torch.linalg.inv(poses), rendered.points)
    outside = outside | ~field.in_view(rendered.points)[:, None]
    shape = (*outside.shape[:2], *rendered.distances.shape[1:])  # [B, S, R, K]
    composed = (rendered.weights[:, None, ..., None] * colours.reshape(*shape, 3)).sum(dim=-2)  # [B, S, R, 3]
    hidden = ~observed_values(batch["masks"][:, :, None], rendered)[..., 0]  # pixels that do not show the world
    invalid = invalid_rays(rendered.weights, outside.reshape(shape)) | hidden
    batches, views, count = composed.shape[:3]
    composed = composed.reshape(batches, views, count // size**2, size, size, 3)
    composed = composed.permute(0, 2, 1, 5, 3, 4).flatten(0, 1)  # [P, S, 3, h, w]
    return SynthesisedPatches(
        observed=patches, rendered=composed, invalid=invalid.reshape(-1, size, size),
        depth=rendered.depth.reshape(-1, size, size),
    )  # fmt: skip
