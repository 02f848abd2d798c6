"""Distils which points look alike into which points belong together (STEGO, equation 4; SceneDINO, section 3.2)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Pair = Literal["self", "similar", "random"]  # a crop with itself, with one of its nearest, with any one
PAIRS: tuple[Pair, ...] = get_args(Pair)


@dataclass(frozen=True)
class Force:
    """How one kind of pair attracts and repels."""

    weight: float  # λ of its loss
    shift: float  # b, the cosine of features from which two points attract


KITTI_360_FORCES: dict[Pair, Force] = {
    "self": Force(0.08147, 0.43610),
    "similar": Force(0.41564, 0.18458),
    "random": Force(0.67024, 0.87093),
}  # values that SceneDINO found on KITTI-360 for DINO features
# Share of a kind's pairs of points that attract, where shifts are estimated. Of two crops that look alike most attract,
# of two that were drawn at random few.
ATTRACTED: dict[Pair, float] = {"self": 0.6, "similar": 0.8, "random": 0.05}


def correspondence_loss(features: Tensor, other: Tensor, head: Tensor, other_head: Tensor, shift: float) -> Tensor:
    """−mean [max(S^h, 0) · (S^f − b)], S the cosines between all points of two crops.

    Args:
        features: Of length one [N, P, D].
        other: Of length one [N, Q, D].
        head: What the head makes of them, of length one [N, P, C].
        other_head: [N, Q, C].
        shift: b.
    """
    similarity = torch.einsum("npd,nqd->npq", features, other)
    return -(torch.einsum("npc,nqc->npq", head, other_head).clamp_min(0.0) * (similarity - shift)).mean()


def estimate_forces(similarities: dict[Pair, Tensor]) -> dict[Pair, Force]:
    """Shifts and weights for data of which nothing is known but its features.

    The shift of a kind is the quantile of its cosines that lets the share `ATTRACTED` attract. The weights make the
    three kinds act equally strongly: each is the inverse of the mean distance to its shift; they sum to one.
    `similarities`: cosines of pairs of points of each kind, any shape.
    """
    values = {pair: found.flatten().float() for pair, found in similarities.items()}
    shifts = {pair: float(found.quantile(1.0 - ATTRACTED[pair])) for pair, found in values.items()}
    strength = {pair: 1.0 / max(float((values[pair] - shifts[pair]).abs().mean()), 1e-6) for pair in values}
    total = sum(strength.values())
    return {pair: Force(strength[pair] / total, shifts[pair]) for pair in values}
