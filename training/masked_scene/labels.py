"""What labels of voxels teach on top of a network's levels: their classes, or where a student is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.geometry.arrays import Array, floating
from scene_completion_ros.voxels.occupancy import log_odds_of_probability, probability_of_log_odds
from scene_completion_training.masked_scene.objective import SceneView, sampled, standardised

Target = Literal["occupancy", "classes"]
OUTPUTS: dict[Target, int] = {"occupancy": 1, "classes": len(COMMON_CLASSES) - 1}
CERTAIN = 1e-3
"""Probabilities nearer to 0 or 1 than this are taken for it: scenes are kept in half precision."""


class LabelHead(nn.Linear):
    """A linear layer that says nothing until it has learned: for "occupancy" the student's answer stands.

    Args:
        inputs: Channels of all levels together.
    """

    def __init__(self, inputs: int, target: Target) -> None:
        super().__init__(inputs, OUTPUTS[target])
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def joined(levels: Sequence[Tensor], scene: SceneView, index: Tensor) -> Tensor:
    """All levels at the centres of voxels [P, 4], float [P, ΣD]: each normalised as where features are probed."""
    return torch.cat([standardised(level) for level in sampled(levels, scene, index)], dim=1)


def refined_log_odds(probability: Array, correction: Array) -> Array:
    """Log odds [N] of being occupied: those of the student's calibrated probability [N], plus the head's answer [N]."""
    xp, probability = floating(probability)
    return log_odds_of_probability(xp.clip(probability, min=CERTAIN, max=1.0 - CERTAIN)) + correction


def refined_probability(probability: Array, correction: Array) -> Array:
    """Probability [N] of `refined_log_odds`."""
    return probability_of_log_odds(refined_log_odds(probability, correction))


def occupancy_loss(correction: Tensor, probability: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross-entropy of refined voxels [N] whose label [N] is known; 0 where none is."""
    known = label != INVALID
    if not known.any():
        return correction.sum() * 0.0
    log_odds = refined_log_odds(probability[known], correction[known])
    return functional.binary_cross_entropy_with_logits(log_odds, (label[known] != EMPTY).to(log_odds))


def class_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, K] of voxels whose label [N] names a class; 0 where none does."""
    named = (label != INVALID) & (label != EMPTY)
    return functional.cross_entropy(logits[named], label[named] - 1) if named.any() else logits.sum() * 0.0
