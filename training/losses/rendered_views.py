"""What rendered patches must agree with: the loss views' colours, seen from other views, and their stereo depth."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_training.losses.photometric import invalid_rays, photometric_loss
from scene_completion_training.losses.smoothness import edge_aware_smoothness
from scene_completion_training.losses.stereo_depth import log_depth_loss
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.colours import sample_colours
from scene_completion_training.rendering.patches import RenderedPatches


def stereo_depth_loss(field: ObservedField, rendered: RenderedPatches, batch: dict[str, Tensor]) -> Tensor:
    """Rendered against stereo depth of the loss views, but for rays that end where no encoder view looks."""
    hint = observed_values(batch["hints"][:, :, None], rendered)[..., 0]
    outside = ~field.in_view(rendered.points).reshape(rendered.weights.shape)
    guessed = invalid_rays(rendered.weights.detach(), outside[:, None])
    return log_depth_loss(rendered.depth, torch.where(guessed, torch.zeros_like(hint), hint))


def view_synthesis_losses(
    field: ObservedField, camera: Camera, rendered: RenderedPatches, batch: dict[str, Tensor], source_views: Tensor
) -> dict[str, Tensor]:
    """Photometric loss of the patches, their colours sampled from the source views, and smoothness of their depth.

    Args:
        field: The field, for which samples outside its views are guesses.
        camera: Camera of all views.
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
    return {
        "smoothness": edge_aware_smoothness(rendered.depth.reshape(-1, size, size), patches),
        "photometric": photometric_loss(patches, composed, invalid.reshape(-1, size, size)),
    }


def observed_values(views: Tensor, rendered: RenderedPatches) -> Tensor:
    """Values [B, R, C] of views [B, V, C, H, W] at the rays' pixels, or the nearest ones."""
    rays = rendered.rays
    pixel = rays.pixel.round().long() if rays.pixel.is_floating_point() else rays.pixel
    u, v = pixel[..., 0], pixel[..., 1]
    index = torch.arange(u.shape[0], device=u.device)[:, None].expand_as(u)
    return views[index, rays.view, :, v, u]
