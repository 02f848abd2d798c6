"""Rendered depth against semi-global-matching depth, a label-free hint (DepthHints, Watson et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def log_depth_loss(rendered: Tensor, hint: Tensor) -> Tensor:
    """Mean log(1 + |d − h| / (1 + h/10)) over rays that have a hint.

    The absolute error is divided by a term that grows with the depth, because the error of stereo matching does;
    the logarithm keeps wrong matches from dominating, as DepthHints' log-L1 does.

    Args:
        rendered: Rendered z-depth [...], metres.
        hint: Stereo z-depth [...], metres; 0 where there is none.
    """
    valid = hint > 0
    if not bool(valid.any()):
        return rendered.sum() * 0.0
    error = (rendered - hint).abs() / (1.0 + 0.1 * hint)
    return torch.log1p(error)[valid].mean()
