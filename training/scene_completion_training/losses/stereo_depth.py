"""Rendered depth against semi-global-matching depth, a label-free hint (DepthHints, Watson et al., ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from scene_completion_training.losses.means import shared_count
from scene_completion_training.networks.observed_field import ObservedField
from scene_completion_training.rendering.patches import RenderedPatches, invalid_rays, observed_values


def log_depth_loss(rendered: Tensor, hint: Tensor) -> Tensor:
    """Mean log(1 + |d − h| / (1 + h/10)) over rays that have a hint.

    The absolute error is divided by a term that grows with the depth, because the error of stereo matching does. The
    logarithm keeps wrong matches from dominating, as DepthHints' log-L1 does.

    Args:
        rendered: Rendered z-depth [...], metres.
        hint: Stereo z-depth [...], metres; 0 where there is none.
    """
    valid = hint > 0
    error = (rendered - hint).abs() / (1.0 + 0.1 * hint)
    return torch.log1p(error)[valid].sum() / shared_count(valid.sum())


def stereo_depth_loss(field: ObservedField, rendered: RenderedPatches, batch: dict[str, Tensor]) -> Tensor:
    """Rendered against stereo depth of the loss views, but for rays that end where no encoder view looks."""
    hint = observed_values(batch["hints"][:, :, None], rendered)[..., 0]
    outside = ~field.in_view(rendered.points).reshape(rendered.weights.shape)
    guessed = invalid_rays(rendered.weights.detach(), outside[:, None])
    return log_depth_loss(rendered.depth, torch.where(guessed, torch.zeros_like(hint), hint))
