"""Inverse depth of every pixel against stereo depth: dense supervision of the image encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.inference.point_code import PointCodeSpec


def block_depth(depth: Tensor, size: int) -> Tensor:
    """Harmonic mean of the known depths of each block of pixels: the depth at the block's centre, exact for planes.

    Args:
        depth: z-depth [B, H, W], metres; 0 where unknown.
        size: Edge of a block in pixels; a feature map of stride `size` has its pixel centres at the blocks' centres.

    Returns:
        [B, H / size, W / size]; 0 where nothing in the block is known.
    """
    known = (depth > 0).to(depth.dtype)
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-3), torch.zeros_like(depth))
    count, total = (functional.avg_pool2d(values[:, None], size)[:, 0] for values in (known, inverse))
    return torch.where(count > 0, count / total.clamp_min(1e-9), torch.zeros_like(count))


def relative_inverse_depth_loss(code: Tensor, hint: Tensor, spec: PointCodeSpec, *, cap: float = 1.0) -> Tensor:
    """Mean min(|1/d − 1/h| / (1/h + 0.01), cap) over pixels that have a hint.

    Args:
        code: Predicted inverse depth code z~ [...], 1 at `spec.near` and −1 at `spec.far`.
        hint: Stereo z-depth [...], metres; 0 where there is none.
        spec: Point code, which scales z~.
        cap: Largest error of a pixel, for wrong matches.
    """
    valid = hint > 0
    if not bool(valid.any()):
        return code.sum() * 0.0
    inverse = 1.0 / hint[valid]
    scale = (1.0 / spec.near - 1.0 / spec.far) / 2.0
    error = (code[valid] - spec.depth_code(hint[valid])).abs() * scale
    return torch.clamp(error / (inverse + 0.01), max=cap).mean()
