"""Depth against that of semi-global matching: of rendered rays, and of every pixel to supervise the encoder."""

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_training.losses.means import shared_count
from scene_completion_training.networks.density_field import ObservedField
from scene_completion_training.rendering.patches import RenderedPatches, invalid_rays, observed_values

_SHARPNESS = 200.0  # of the softplus, metres


def block_depth(depth: Tensor, size: int) -> Tensor:
    """Harmonic mean [B, H / size, W / size] of known depths of blocks: that at their centres for planes; 0 unknown."""
    known = (depth > 0).to(depth.dtype)
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-3), torch.zeros_like(depth))
    count, total = (functional.avg_pool2d(values[:, None], size)[:, 0] for values in (known, inverse))
    return torch.where(count > 0, count / total.clamp_min(1e-9), torch.zeros_like(count))


def positive_inverse_depth(inverse: Tensor) -> Tensor:
    """Inverse depth, per metre, as the loss reads it: positive, and with a gradient, also where a code says less."""
    return functional.softplus(inverse, beta=_SHARPNESS)


def log_inverse_depth_loss(
    code: Tensor, hint: Tensor, spec: PointCodeSpec, *, cap: float = 1.0, offset: float = 2e-3
) -> Tensor:
    """Mean min(|log (i + o) − log (1/h + o)|, cap) over pixels with a hint h; i is the inverse depth of the code.

    Too far and too near by the same factor cost the same. An error relative to the inverse depth calls infinity no
    worse than half the depth, and a network that is unsure places everything far away. `code`: inverse depth code
    [...], 1 at `spec.near` and −1 at `spec.far`; `hint`: stereo z-depth [...], metres, 0 for none; `cap`: largest
    error, for wrong matches; `offset`: o, per metre: beyond its inverse, distance hardly matters. A softplus keeps i
    positive: the code that costs nothing reads 83 m where 80 m was measured, 40 m where 40 m was.
    """
    valid = hint > 0
    inverse = positive_inverse_depth(spec.inverse_depth(code[valid]))
    error = (torch.log(inverse + offset) - torch.log(1.0 / hint[valid] + offset)).abs()
    return torch.clamp(error, max=cap).sum() / shared_count(valid.sum())


def log_depth_loss(rendered: Tensor, hint: Tensor) -> Tensor:
    """Mean log(1 + |d − h| / (1 + h/10)) over rays with a hint: of z-depths [...] and hints [...], metres, 0 for none.

    A label-free hint (DepthHints, Watson et al., ICCV 2019). The error of stereo matching grows with the depth, and so
    does what it is divided by; the logarithm keeps wrong matches from dominating, as DepthHints' log-L1 does.
    """
    valid = hint > 0
    return torch.log1p((rendered - hint).abs() / (1.0 + 0.1 * hint))[valid].sum() / shared_count(valid.sum())


def stereo_depth_loss(field: ObservedField, rendered: RenderedPatches, batch: dict[str, Tensor]) -> Tensor:
    """Rendered against stereo depth of the loss views, but for rays that end where no encoder view looks."""
    hint = observed_values(batch["hints"][:, :, None], rendered)[..., 0]
    outside = ~field.in_view(rendered.points).reshape(rendered.weights.shape)
    guessed = invalid_rays(rendered.weights.detach(), outside[:, None])
    return log_depth_loss(rendered.depth, torch.where(guessed, torch.zeros_like(hint), hint))
