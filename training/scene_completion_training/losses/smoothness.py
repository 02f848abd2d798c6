"""Edge-aware smoothness of rendered inverse depth."""

from __future__ import annotations

from torch import Tensor


def edge_aware_smoothness(depth: Tensor, image: Tensor) -> Tensor:
    """|∂x d*| e^{−|∂x I|} + |∂y d*| e^{−|∂y I|} of the mean-normalised inverse depth d* (Godard et al. 2019; BTS).

    Args:
        depth: Rendered depth of patches [P, h, w], metres.
        image: Patches [P, 3, h, w] in 0..1.
    """
    inverse = 1.0 / depth.clamp(1e-3, 80.0)
    inverse = inverse / inverse.mean(dim=(1, 2), keepdim=True)
    dx = (inverse[:, :, 1:] - inverse[:, :, :-1]).abs()
    dy = (inverse[:, 1:] - inverse[:, :-1]).abs()
    edge_x = (image[..., 1:] - image[..., :-1]).abs().mean(dim=1)
    edge_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1)
    return (dx * (-edge_x).exp()).mean() + (dy * (-edge_y).exp()).mean()
