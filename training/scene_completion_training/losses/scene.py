"""Losses of a completed scene: occupied voxels, their classes, the ground, and what its pixels say."""

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.losses.means import shared_count, weighted_mean


def occupied_cross_entropy(logits: Tensor, occupied: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the cross entropy of voxels, in nats.

    `logits`: [B, X, Y, Z]; `occupied`: 0 or 1, the same shape; `weight`: the same shape, 0 where nothing is known.
    """
    each = functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none")
    return weighted_mean(each, weight)


def surface_likelihood(height: Tensor, deviation: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean of |h − h*| / σ + log σ: the likelihood of a Laplace distribution, whose middle is the median.

    Args:
        height: Said height of the ground [B, x, y], metres.
        deviation: σ [B, x, y], metres.
        true: h* [B, x, y], metres; NaN where unknown.
        weight: Of each cell [B, x, y].
    """
    known = torch.isfinite(true)
    off = (height - true.nan_to_num()).abs() / deviation + deviation.log()
    return weighted_mean(off, weight * known)


def depth_likelihood(log_depth: Tensor, deviation: Tensor, true: Tensor) -> Tensor:
    """The same of the logarithm of depth [B, h, w], where it is known; its distance is at most 10 σ, for wrong matches.

    `log_depth`: said logarithm of z-depth [B, h, w]; `deviation`: its σ [B, h, w]; `true`: z-depth [B, h, w], metres; 0
    where unknown, infinite in the sky.
    """
    known = (true > 0.0) & torch.isfinite(true)
    wanted = torch.where(known, true, torch.ones_like(true)).log()
    off = ((log_depth - wanted).abs() / deviation).clamp_max(10.0) + deviation.log()
    return (off * known).sum() / shared_count(known.sum())


def class_divergence(logits: Tensor, earlier: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B, ...] of classes from what they were before, of logits [B, K, ...], in nats."""
    before = earlier.detach().log_softmax(dim=1)
    return (before.exp() * (before - logits.log_softmax(dim=1))).sum(dim=1)


def class_terms(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of places [N, K] whose classes [N] are known, each class with its weight [K], in nats."""
    each = functional.cross_entropy(logits, classes, reduction="none")
    return weighted_mean(each, weights[classes], least=1e-6)
