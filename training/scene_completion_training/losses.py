"""The losses of the stages, and means over what counts.

Losses of features: against the tokens of foundation models, each other within a surface, and between crops.

Several teachers are each compared as suits it, weighed by learned uncertainty (CUA-O3D, section 3). Which points have
similar features is distilled into which points belong together (STEGO, equation 4; SceneDINO, section 3.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.cells import CERTAIN
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.voxels.occupancy import probability_of_log_odds
from scene_completion_training.data.taught_voxels import UNKNOWN
from scene_completion_training.networks.density_field import ObservedField
from scene_completion_training.rendering import RenderedPatches, invalid_rays, observed_values


def weighted_mean(values: Tensor, weight: Tensor, least: float = 1.0) -> Tensor:
    """Mean of values, of any shape, by weights or booleans of the same shape; `least`: for at least as much weight."""
    return (values * weight).sum() / weight.sum().clamp_min(least)


# Losses of occupancy, classes and completed scenes, and distillation of density fields (KDBTS; Han et al. 2024).


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy, in nats, of logits of voxels against evidence in 0..1; all three of one shape."""
    return weighted_mean(functional.binary_cross_entropy_with_logits(logit, target, reduction="none"), weight)


def free_cross_entropy(logit: Tensor, known: Tensor) -> Tensor:
    """A strong preference for empty space: mean −log(1 − p) of occupancy logits [B, N] in the view volume.

    Of samples [B] with known voxels: without, nothing would hold against it, and the whole field would become empty.
    """
    return (functional.softplus(logit) * known[:, None]).mean()


LIMIT = 2.0  # density above which both count as the same, per metre, as in KDBTS


def density_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean |min(σ_s, 2) − min(σ_t, 2)| over valid points [B, N], per metre; no gradient reaches the teacher.

    Beyond the limit both are a surface: how dense it is does not matter, and would rule the mean.
    """
    return weighted_mean((student.clamp_max(LIMIT) - teacher.detach().clamp_max(LIMIT)).abs(), valid)


def logit_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean distance of densities before softplus [B, N] over valid points: an alternative in the code of KDBTS."""
    return weighted_mean((student - teacher.detach()).abs(), valid)


def occupancy_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's occupancy (logits [B, N]) from the teacher's over valid points.

    A teacher is mostly uncertain about hidden space. A probability of 0.3 is a density of 0.02 per metre under the
    `OccupancyLink`, which clipped densities do not separate from empty space.
    """
    taught = teacher.detach()
    probability = probability_of_log_odds(taught)
    cross_entropy = functional.binary_cross_entropy_with_logits
    crossed, own = (cross_entropy(logit, probability, reduction="none") for logit in (student, taught))
    return weighted_mean(crossed - own, valid)


AGREED = 0.2  # standard deviation between teachers at which what they say together counts half


def taught_occupancy(logits: Tensor, taught: Tensor, doubt: Tensor, weight: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of a student's cells from what teachers know together, see `TaughtVoxels`.

    A cell's probability is the mean of those of its voxels, and all are kept `CERTAIN` away from 0 and 1. Where the
    teachers deviate by d from their mean, it counts by 1 / (1 + (d / `AGREED`)²). `logits`: of the voxels [B, N, S³];
    `taught`, `doubt`: mean and deviation, uint8 [B, N] in 1/255, `UNKNOWN` as doubt for cells that do not count;
    `weight`: of the cells [B, N].
    """
    own = logits.float().sigmoid().mean(dim=2)
    student, target = (CERTAIN + (1.0 - 2.0 * CERTAIN) * each for each in (own, taught.float() / 255.0))
    divergence = target * (target / student).log() + (1.0 - target) * ((1.0 - target) / (1.0 - student)).log()
    agreed = 1.0 / (1.0 + (doubt.float() / 255.0 / AGREED) ** 2)
    return weighted_mean(divergence, weight * agreed * (doubt < UNKNOWN))


def surface_likelihood(height: Tensor, deviation: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean of |h − h*| / σ + log σ (Laplace) of heights [B, x, y], metres, NaN unknown; the middle is the median."""
    known = torch.isfinite(true)
    return weighted_mean((height - true.nan_to_num()).abs() / deviation + deviation.log(), weight * known)


def depth_likelihood(log_depth: Tensor, deviation: Tensor, true: Tensor) -> Tensor:
    """The same of log depth [B, h, w], at most 10 σ off (wrong matches); true metres, 0 unknown, infinite: sky."""
    known = (true > 0.0) & torch.isfinite(true)
    wanted = torch.where(known, true, torch.ones_like(true)).log()
    return weighted_mean(((log_depth - wanted).abs() / deviation).clamp_max(10.0) + deviation.log(), known)


def plane_likelihood(plane: Tensor, true: Tensor) -> Tensor:
    """The same of `RoadPlane.state` and deviations [B, 3, 2], at most 10 σ off; true states [B, 3], NaN unknown."""
    state, deviation = plane.unbind(dim=2)
    known = torch.isfinite(true)
    off = (state - true.nan_to_num()).abs() / deviation
    return weighted_mean(off.clamp_max(10.0) + deviation.log(), known)


def class_terms(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of places [N, K] whose classes [N] are known, each class with its weight [K], in nats."""
    return weighted_mean(functional.cross_entropy(logits, classes, reduction="none"), weights[classes], least=1e-6)


# Rendered patches against images, and depth against that of semi-global matching, of rays and of every pixel.


_SHARPNESS = 200.0  # of the softplus, metres


def block_depth(depth: Tensor, size: int) -> Tensor:
    """Harmonic mean [B, H / size, W / size] of known depths of blocks: that at their centres for planes; 0 unknown."""
    known = (depth > 0).to(depth.dtype)
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-3), torch.zeros_like(depth))
    count, total = (functional.avg_pool2d(values[:, None], size)[:, 0] for values in (known, inverse))
    return torch.where(count > 0, count / total.clamp_min(1e-9), torch.zeros_like(count))


def positive_inverse_depth(inverse: Tensor) -> Tensor:
    """Inverse depth, per metre, as the loss reads it: positive, and with a gradient for any code."""
    return functional.softplus(inverse, beta=_SHARPNESS)


def log_inverse_depth_loss(
    code: Tensor, hint: Tensor, spec: PointCodeSpec, *, cap: float = 1.0, offset: float = 2e-3
) -> Tensor:
    """Mean min(|log (i + o) − log (1/h + o)|, cap) over pixels with a hint h; i is the inverse depth of the code.

    Too far and too near by the same factor cost the same. An error relative to the inverse depth calls infinity no
    worse than half the depth, and a network that is unsure places everything far away. `code`: inverse depth code
    [...], 1 at `spec.near` and −1 at `spec.far`; `hint`: stereo z-depth [...], metres, 0 for none; `cap`: largest
    error, for wrong matches; `offset`: o, per metre: beyond its inverse, distance hardly matters. A softplus keeps i
    positive: the code that costs nothing reads 83 m where 80 m was measured, 40 m where 40 m was.
    """
    valid = hint > 0
    inverse = positive_inverse_depth(spec.inverse_depth(code[valid]))
    error = (torch.log(inverse + offset) - torch.log(1.0 / hint[valid] + offset)).abs()
    return torch.clamp(error, max=cap).sum() / valid.sum().clamp_min(1.0)


def log_depth_loss(rendered: Tensor, hint: Tensor) -> Tensor:
    """Mean log(1 + |d − h| / (1 + h/10)) over rays with a hint: of z-depths [...] and hints [...], metres, 0 for none.

    A label-free hint (DepthHints, Watson et al., ICCV 2019). The error of stereo matching grows with the depth, and so
    does what it is divided by; the logarithm keeps wrong matches from dominating, as DepthHints' log-L1 does.
    """
    valid = hint > 0
    return torch.log1p((rendered - hint).abs() / (1.0 + 0.1 * hint))[valid].sum() / valid.sum().clamp_min(1.0)


def stereo_depth_loss(field: ObservedField, rendered: RenderedPatches, batch: dict[str, Tensor]) -> Tensor:
    """Rendered against stereo depth of the loss views, but for rays that end outside of all encoder views."""
    hint = observed_values(batch["hints"][:, :, None], rendered)[..., 0]
    outside = ~field.in_view(rendered.points).reshape(rendered.weights.shape)
    guessed = invalid_rays(rendered.weights.detach(), outside[:, None])
    return log_depth_loss(rendered.depth, torch.where(guessed, torch.zeros_like(hint), hint))


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
    edge_x, edge_y = _edges(image)
    return (dx * (-edge_x).exp()).mean() + (dy * (-edge_y).exp()).mean()


def _edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean |∂x I| [P, h, w − 1] and |∂y I| [P, h − 1, w] of the colours of images [P, 3, h, w]."""
    across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    return across.abs().mean(dim=1), down.abs().mean(dim=1)


EDGE_TEMPERATURE = 25.0  # how quickly the smoothness of features ends at an edge of the image (SceneDINO)


def cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − cos(F, F*), mean of rows [P, D] by weights or booleans [P]; zero, also the gradient, where none has a weight.

    The published code has no mask: rays that end outside of all encoder views are drawn to what others show there.
    """
    return weighted_mean(1.0 - functional.cosine_similarity(predicted, target, dim=-1, eps=1e-6), weight)


def feature_smoothness(features: Tensor, image: Tensor) -> Tensor:
    """mean_c |∂x F| e^{−25 |∂x I|} + the same along y of features [P, h, w, D] and images [P, 3, h, w] (SceneDINO).

    Features change where the image does. They are brought to a root mean square of one a channel: otherwise the loss
    falls when they all shrink, to which the cosine loss is blind. The mean is over all h × w pixels; differences of the
    last column and row are zero.
    """
    features = functional.normalize(features, dim=-1, eps=1e-6) * features.shape[-1] ** 0.5
    dx = (features[:, :, 1:] - features[:, :, :-1]).abs().mean(dim=-1)
    dy = (features[:, 1:] - features[:, :-1]).abs().mean(dim=-1)
    edge_x, edge_y = _edges(image)
    smooth = (dx * (-EDGE_TEMPERATURE * edge_x).exp()).sum() + (dy * (-EDGE_TEMPERATURE * edge_y).exp()).sum()
    return smooth / features[..., 0].numel()


Regulariser = Literal["log1p_square", "log1p", "log", "none"]
REGULARISERS: dict[Regulariser, Callable[[Tensor], Tensor]] = {
    "log1p_square": lambda p: torch.log1p(p * p),
    "log1p": torch.log1p,
    "log": torch.log,
}


class UncertaintyWeights(nn.Module):
    """L = Σ_i L_i / (2 p_i²) + r(p_i), p_i > 0 learned with the network, one for each loss; or Σ_i L_i for "none".

    For a constant loss L the optimum of each regulariser r is known. "log1p_square", log(1 + p²), is that of the
    released code of CUA-O3D: p² = (L + √(L² + 8L)) / 4. "log1p", log(1 + p), is that of the paper: p³ = L (1 + p).
    "log", log p, is that of Kendall et al. (2018): p² = L; it alone has no lower bound. p = exp(a), so that it never
    reaches the pole at zero; the released p has no bound and may change its sign.
    """

    def __init__(self, names: Sequence[str], regulariser: Regulariser = "log1p_square") -> None:
        super().__init__()
        self.names, self.regulariser = tuple(names), regulariser
        self.logarithms = nn.ParameterList([torch.zeros(()) for _ in names])

    @property
    def uncertainties(self) -> dict[str, float]:
        """Uncertainty p of each loss."""
        return {name: float(a.detach().exp()) for name, a in zip(self.names, self.logarithms, strict=True)}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The total [] of losses [] by name: those that it was made for."""
        if self.regulariser == "none":
            return torch.stack([losses[name] for name in self.names]).sum()
        regularised, values = REGULARISERS[self.regulariser], [a.exp() for a in self.logarithms]
        terms = [0.5 / (p * p) * losses[name] + regularised(p) for name, p in zip(self.names, values, strict=True)]
        return torch.stack(terms).sum()


Comparison: TypeAlias = Literal["cosine", "l1", "demeaned_cosine"]
COMPARED: dict[Comparison, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cosine": cosine_loss,
    # |F − F*|, mean over the channels and weighted mean over rows.
    "l1": lambda predicted, target, weight: weighted_mean((predicted - target).abs().mean(dim=-1), weight),
    # With targets less their mean over the channels (CUA-O3D, for Stable Diffusion).
    "demeaned_cosine": lambda found, target, weight: cosine_loss(found, target - target.mean(-1, True), weight),
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
    """Weights of these terms: the total is the loss, that of each teacher is only watched."""
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
# Share of a kind's pairs of points that attract, where shifts are estimated. Of two similar crops most attract,
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
