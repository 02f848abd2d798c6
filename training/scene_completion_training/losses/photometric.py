"""Rendered patches against images: SSIM + L1, minimum over source views, invalid rays left out; smoothness."""

import torch
from torch import Tensor
from torch.nn import functional

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
