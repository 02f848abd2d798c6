"""Colours of 3D points, and of rendered patches, sampled from posed source views: the field predicts density only."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.patches import RenderedPatches, invalid_rays, observed_values


def sample_colours(
    images: Tensor, masks: Tensor, camera: Camera, view_from_encoder: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Samples source images at the projections of points.

    Returns colours [B, S, N, 3] and a flag [B, S, N], true where the point does not project into the source image, or
    to where that does not show the world.

    Args:
        images: Source images [B, S, 3, H, W] in 0..1.
        masks: Where they show the world, bool [B, S, H, W].
        view_from_encoder: Poses [B, S, 4, 4]: source view from encoder view.
        points: Points [B, N, 3], metres, encoder view's optical frame.
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
    sampled = functional.grid_sample(
        torch.cat([images, masks[:, :, None].to(images.dtype)], dim=2).flatten(0, 1),
        grid.flatten(0, 1)[:, None].clamp(-2.0, 2.0),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )  # [B·S, 4, 1, N]
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
    """Gives rendered patches the colours that the source views have there.

    Args:
        field: The field, for which samples outside its views are guesses.
        rendered: Patches of the loss views.
        batch: Batch with views [B, V, 3, H, W] in 0..1, masks [B, V, H, W] and encoder_from_view [B, V, 4, 4].
        source_views: Indices [B, S] of the views that supply colours.
    """
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
        observed=patches,
        rendered=composed,
        invalid=invalid.reshape(-1, size, size),
        depth=rendered.depth.reshape(-1, size, size),
    )
