"""Losses of a completed scene: occupied voxels, their classes, the ground, and what its pixels say."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.losses.means import shared_count, weighted_mean


def occupied_cross_entropy(logits: Tensor, occupied: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the cross entropy of voxels, in nats.

    Args:
        logits: [B, X, Y, Z].
        occupied: 0 or 1, the same shape.
        weight: The same shape, 0 where nothing is known.
    """
    each = functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none")
    return weighted_mean(each, weight)


def affinity(probability: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Scene-class affinity of one class: −log of precision, recall and specificity (MonoScene; Cao, de Charette 2022).

    All three are those of the whole scene, as expected by the probabilities. So a class of few voxels weighs as much as
    one of many. What the truth does not hold has no recall.

    Args:
        probability: Of the class, [...].
        true: Whether it holds, [...].
        weight: Of each voxel [...], 0 where nothing is known.
    """
    held = true.to(probability.dtype) * weight
    agreed, claimed, there = (probability * held).sum(), (probability * weight).sum(), held.sum()
    absent = weight - held
    kept, free = ((1.0 - probability) * absent).sum(), absent.sum()
    terms = [-((part + 1e-5) / (whole + 1e-5)).clamp_max(1.0).log() for part, whole in (
        (agreed, claimed), (agreed, there), (kept, free),
    )]  # fmt: skip
    counts = torch.stack([(there > 0), (there > 0), (free > 0)]).to(probability.dtype)
    return (torch.stack(terms) * counts).sum()


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
    """The same of the logarithm of depth [B, h, w], where it is known; at most 3 for a pixel, for wrong matches.

    Args:
        log_depth: Said logarithm of z-depth [B, h, w].
        deviation: Its σ [B, h, w].
        true: z-depth [B, h, w], metres; 0 where unknown, infinite in the sky.
    """
    known = (true > 0.0) & torch.isfinite(true)
    wanted = torch.where(known, true, torch.ones_like(true)).log()
    off = ((log_depth - wanted).abs() / deviation).clamp_max(10.0) + deviation.log()
    return (off * known).sum() / shared_count(known.sum())


def class_terms(logits: Tensor, classes: Tensor, weights: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross entropy of places [N, K] whose classes [N] are known, each class with its weight [K], in nats."""
    each = functional.cross_entropy(logits, classes, reduction="none")
    share = weights[classes] if weight is None else weights[classes] * weight
    return weighted_mean(each, share, least=1e-6)
