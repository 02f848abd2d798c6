"""Losses of features: against the tokens of foundation models, each other within a surface, and between crops.

Several teachers are each compared as suits it, weighed by learned uncertainty (CUA-O3D, section 3). Which points look
alike is distilled into which points belong together (STEGO, equation 4; SceneDINO, section 3.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.losses.means import weighted_mean

EDGE_TEMPERATURE = 25.0  # how quickly the smoothness of features ends at an edge of the image (SceneDINO)


def cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − cos(F, F*), mean of rows [P, D] by weights or booleans [P]; zero, also the gradient, where none has a weight.

    The published code has no mask: rays that end where no encoder view looks are drawn to what others see there.
    """
    return weighted_mean(1.0 - functional.cosine_similarity(predicted, target, dim=-1, eps=1e-6), weight)


def demeaned_cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As `cosine_loss`, with targets less their mean over the channels (CUA-O3D, for Stable Diffusion)."""
    return cosine_loss(predicted, target - target.mean(dim=-1, keepdim=True), weight)


def l1_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """|F − F*|, mean over the channels and weighted mean over rows; arguments as of `cosine_loss`."""
    return weighted_mean((predicted - target).abs().mean(dim=-1), weight)


def feature_smoothness(features: Tensor, image: Tensor) -> Tensor:
    """mean_c |∂x F| e^{−25 |∂x I|} + the same along y of features [P, h, w, D] and images [P, 3, h, w] (SceneDINO).

    Features change where the image does. They are brought to a root mean square of one a channel: otherwise the loss
    falls when they all shrink, to which the cosine loss is blind. The mean is over all h × w pixels; differences of the
    last column and row are zero.
    """
    features = functional.normalize(features, dim=-1, eps=1e-6) * features.shape[-1] ** 0.5
    dx = (features[:, :, 1:] - features[:, :, :-1]).abs().mean(dim=-1)
    dy = (features[:, 1:] - features[:, :-1]).abs().mean(dim=-1)
    edge_x = (image[..., 1:] - image[..., :-1]).abs().mean(dim=1)
    edge_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1)
    smooth = (dx * (-EDGE_TEMPERATURE * edge_x).exp()).sum() + (dy * (-EDGE_TEMPERATURE * edge_y).exp()).sum()
    return smooth / features[..., 0].numel()


class UncertaintyWeights(nn.Module):
    """L = Σ_i L_i / (2 p_i²) + log(1 + p_i²), p_i > 0 learned with the network, one for each loss.

    The regulariser is that of the released code of CUA-O3D; the paper has log(1 + p). It never falls below zero. For a
    constant loss the optimum is p² = (L + √(L² + 8L)) / 4. p = exp(a), so that it never reaches the pole at zero; the
    released p has no bound and may change its sign.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.logarithms = nn.ParameterList([torch.zeros(()) for _ in names])

    @property
    def uncertainties(self) -> dict[str, float]:
        """Uncertainty p of each loss."""
        return {name: float(a.detach().exp()) for name, a in zip(self.names, self.logarithms, strict=True)}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The total [] of losses [] by name: those that it was made for."""
        squares = [a.exp().square() for a in self.logarithms]
        terms = [0.5 / p * losses[name] + torch.log1p(p) for name, p in zip(self.names, squares, strict=True)]
        return torch.stack(terms).sum()


Comparison: TypeAlias = Literal["cosine", "l1", "demeaned_cosine"]
COMPARED: dict[Comparison, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cosine": cosine_loss,
    "l1": l1_loss,
    "demeaned_cosine": demeaned_cosine_loss,
}


@dataclass
class TeacherSpec:
    """A foundation model that is learned from."""

    name: str  # letters, digits, "_" and "-"
    loss: Comparison = "cosine"  # how features are compared with its own, see `losses.feature_agreement`


def check_teachers(teachers: Sequence[TeacherSpec], where: str) -> None:
    """Raises a `ConfigurationError` without teachers, or for names that cannot be."""
    names = [teacher.name for teacher in teachers]
    if not names or len(set(names)) < len(names) or not all(n.replace("-", "_").isidentifier() for n in names):
        cure = "Name one teacher or more, each another, with letters, digits, _ and -"
        raise ConfigurationError(f"teachers {names}", where=where, cure=cure)


def agglomeration_terms(
    teachers: Sequence[TeacherSpec],
    uncertainty: UncertaintyWeights,
    predicted: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The weighed total "agglomeration" [], and its parts for curves; [P, D] by teacher, weights or booleans [P]."""
    losses = {one.name: COMPARED[one.loss](*(of[one.name] for of in (predicted, targets, weights))) for one in teachers}
    watched = {f"teacher_{name}": loss.detach() for name, loss in losses.items()}
    return {"agglomeration": uncertainty(losses), **watched}


def term_weights(teachers: Sequence[TeacherSpec]) -> dict[str, float]:
    """Weights of these terms: the total is the loss, what each teacher says is only watched."""
    return {"agglomeration": 1.0, **{f"teacher_{teacher.name}": 0.0 for teacher in teachers}}


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
    """−mean [max(S^h, 0) · (S^f − b)], S cosines between points of two crops, features [N, P, D], heads [N, P, C]."""
    similarity = torch.einsum("npd,nqd->npq", features, other)
    return -(torch.einsum("npc,nqc->npq", head, other_head).clamp_min(0.0) * (similarity - shift)).mean()


def estimate_forces(similarities: dict[Pair, Tensor]) -> dict[Pair, Force]:
    """Shifts and weights for data of which nothing is known but its features: cosines of pairs of points of each kind.

    The shift of a kind is the quantile of its cosines that lets the share `ATTRACTED` attract. The weights make the
    three kinds act equally strongly: each is the inverse of the mean distance to its shift; they sum to one.
    """
    values = {pair: found.flatten().float() for pair, found in similarities.items()}
    shifts = {pair: float(found.quantile(1.0 - ATTRACTED[pair])) for pair, found in values.items()}
    strength = {pair: 1.0 / max(float((values[pair] - shifts[pair]).abs().mean()), 1e-6) for pair in values}
    total = sum(strength.values())
    return {pair: Force(strength[pair] / total, shifts[pair]) for pair in values}
