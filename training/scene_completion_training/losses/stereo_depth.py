"""Rendered patches against images, and depth against that of semi-global matching, of rays and of every pixel."""

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


_KERNEL = torch.tensor([[0.0947, 0.1183, 0.0947], [0.1183, 0.1478, 0.1183], [0.0947, 0.1183, 0.0947]])


def structural_dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """(1 − SSIM)/2 in 0..1 of images [N, 3, h, w]: 3×3 Gaussian, zero padding, C1 = 0.01², C2 = 0.03² (BTS)."""
    channels = first.shape[1]
    kernel = _KERNEL.to(first).expand(channels, 1, 3, 3)

    def blur(x: Tensor) -> Tensor:
        return functional.conv2d(x, kernel, padding=1, groups=channels)

    mean_1, mean_2 = blur(first), blur(second)
    variance_1 = blur(first * first) - mean_1 * mean_1
    variance_2 = blur(second * second) - mean_2 * mean_2
    covariance = blur(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)) / (
        (mean_1 * mean_1 + mean_2 * mean_2 + c1) * (variance_1 + variance_2 + c2)
    )
    return ((1.0 - similarity) / 2.0).clamp(0.0, 1.0)


def photometric_error(target: Tensor, rendered: Tensor) -> Tensor:
    """0.85 · mean_c (1 − SSIM)/2 + 0.15 · mean_c |I − I_v| (BTS, equation 6), [P, S, h, w], of S source views."""
    count, sources = rendered.shape[:2]
    flat = rendered.flatten(0, 1)
    repeated = target[:, None].expand(-1, sources, -1, -1, -1).flatten(0, 1)
    error = 0.85 * structural_dissimilarity(repeated, flat).mean(1) + 0.15 * (repeated - flat).abs().mean(1)
    return error.reshape(count, sources, *error.shape[1:])


def photometric_loss(target: Tensor, rendered: Tensor, invalid: Tensor) -> Tensor:
    """mean_p [min_v e_v · (1 − invalid_p)] over pixels (BTS, equation 6); invalid [P, h, w] have no supervision."""
    return (photometric_error(target, rendered).amin(dim=1) * (~invalid)).mean()


def edge_aware_smoothness(depth: Tensor, image: Tensor) -> Tensor:
    """|∂x d*| e^{−|∂x I|} + the same along y, d* mean-normalised inverse depth (Godard et al. 2019; BTS)."""
    inverse = 1.0 / depth.clamp(1e-3, 80.0)
    inverse = inverse / inverse.mean(dim=(1, 2), keepdim=True)
    dx = (inverse[:, :, 1:] - inverse[:, :, :-1]).abs()
    dy = (inverse[:, 1:] - inverse[:, :-1]).abs()
    edge_x = (image[..., 1:] - image[..., :-1]).abs().mean(dim=1)
    edge_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1)
    return (dx * (-edge_x).exp()).mean() + (dy * (-edge_y).exp()).mean()
