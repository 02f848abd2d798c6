"""How far predicted features are from those of a teacher, at points: cosine or L1, as each teacher asks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from scene_completion_training.losses.feature_agreement import cosine_loss

TeacherLoss = Literal["cosine", "l1"]


def without_channel_mean(features: Tensor) -> Tensor:
    """Features [..., D] less the mean of their own channels: a constant that all channels share says nothing."""
    return features - features.mean(dim=-1, keepdim=True)


def teacher_loss(
    predicted: Tensor, target: Tensor, weight: Tensor, kind: TeacherLoss, *, demean: bool = False
) -> Tensor:
    """Mean over the points whose target is known: 1 − cos, or the mean absolute difference (CUA-O3D, section 3.2).

    The released code takes the cosine for all teachers, whatever their configuration says. It takes the channel mean
    from the target alone; here both sides lose it, or no prediction could agree.

    Args:
        predicted: [N, D].
        target: [N, D].
        weight: Of each point [N]; 0 where the target is not known. Booleans will do.
        demean: Take the mean of the channels from each vector first.

    Returns:
        []; zero, with a gradient of zero, where no target is known.
    """
    if demean:
        predicted, target = without_channel_mean(predicted), without_channel_mean(target)
    if kind == "cosine":
        return cosine_loss(predicted, target, weight)
    return ((predicted - target).abs().mean(dim=-1) * weight).sum() / weight.sum().clamp_min(1)
