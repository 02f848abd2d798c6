"""Colours of 3D points sampled from posed source views: the field predicts density only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera


def sample_colours(
    images: Tensor, masks: Tensor, camera: Camera, view_from_encoder: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Samples source images at the projections of points.

    Args:
        images: Source images [B, S, 3, H, W] in 0..1.
        masks: Where they show the world, bool [B, S, H, W].
        camera: Camera shared by the views.
        view_from_encoder: Poses [B, S, 4, 4]: source view from encoder view.
        points: Points [B, N, 3], metres, encoder view's optical frame.

    Returns:
        Colours [B, S, N, 3] and a flag [B, S, N], true where the point does not project into the source image, or to
        where that does not show the world.
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
