"""Patch rays through posed pinhole views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera


@dataclass(frozen=True)
class Rays:
    """Rays of pixel patches.

    Attributes:
        origin: [B, R, 3], metres, in the encoder view's optical frame.
        direction: [B, R, 3], unit vectors in the same frame.
        cosine: [B, R], cosine to the view's optical axis: z-depth = distance × cosine.
        view: [B, R], index of the view a ray belongs to.
        pixel: [B, R, 2], integer pixel coordinates (u, v).
        patch_size: Rays come patch by patch, row-major inside a patch.
    """

    origin: Tensor
    direction: Tensor
    cosine: Tensor
    view: Tensor
    pixel: Tensor
    patch_size: int


def sample_patch_rays(
    camera: Camera,
    encoder_from_view: Tensor,
    loss_views: Tensor,
    *,
    patches: int,
    patch_size: int = 8,
    generator: torch.Generator | None = None,
) -> Rays:
    """Samples patches at random positions in randomly chosen loss views (BTS `PatchRaySampler`).

    Args:
        camera: Camera shared by all views.
        encoder_from_view: Poses [B, V, 4, 4] of the views in the encoder view's frame.
        loss_views: Indices [B, L] of the views that may be rendered.
        patches: Patches per batch element.
        patch_size: Edge of a patch in pixels.
        generator: Source of randomness.
    """
    batch = encoder_from_view.shape[0]
    device = encoder_from_view.device
    # Drawn on the CPU, so that a training goes the same way on any device.
    chosen = torch.randint(loss_views.shape[1], (batch, patches), generator=generator).to(device)
    view = torch.gather(loss_views, 1, chosen)  # [B, P]
    left = torch.randint(camera.width - patch_size + 1, (batch, patches), generator=generator).to(device)
    top = torch.randint(camera.height - patch_size + 1, (batch, patches), generator=generator).to(device)
    offset = torch.arange(patch_size, device=device)
    v = (top[..., None, None] + offset[:, None]).expand(-1, -1, patch_size, patch_size)
    u = (left[..., None, None] + offset[None, :]).expand(-1, -1, patch_size, patch_size)
    pixel = torch.stack([u, v], dim=-1).reshape(batch, -1, 2)
    view = view[..., None].expand(-1, -1, patch_size * patch_size).reshape(batch, -1)
    return rays_of_pixels(camera, encoder_from_view, view, pixel, patch_size)


def rays_of_pixels(camera: Camera, encoder_from_view: Tensor, view: Tensor, pixel: Tensor, patch_size: int) -> Rays:
    """Builds rays from pixels [B, R, 2] of views [B, R] (see `Rays`)."""
    pose = torch.gather(encoder_from_view.flatten(2), 1, view[..., None].expand(-1, -1, 16)).reshape(*view.shape, 4, 4)
    ray = torch.stack(
        [
            (pixel[..., 0] - camera.cx) / camera.fx,
            (pixel[..., 1] - camera.cy) / camera.fy,
            torch.ones_like(pixel[..., 0], dtype=pose.dtype),
        ],
        dim=-1,
    ).to(pose.dtype)
    cosine = 1.0 / ray.norm(dim=-1)
    direction = torch.einsum("brij,brj->bri", pose[..., :3, :3], ray * cosine[..., None])
    return Rays(pose[..., :3, 3], direction, cosine, view, pixel, patch_size)
