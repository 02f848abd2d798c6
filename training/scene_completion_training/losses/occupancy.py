"""Losses of occupancy, classes and completed scenes, and distillation of density fields (KDBTS; Han et al. 2024)."""

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.voxels.occupancy import opacity, probability_of_log_odds
from scene_completion_training.losses.means import shared_count, weighted_mean


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy of logits [B, N] at voxel centres against stereo evidence [B, N] in 0..1."""
    loss = functional.binary_cross_entropy_with_logits(logit, target, weight=weight, reduction="sum")
    return loss / shared_count(weight.sum())


def mean_opacity(density: Tensor, voxel_size: float) -> Tensor:
    """A weak preference for empty space: the mean opacity over voxel edges, metres, of densities [B, N] per metre."""
    return opacity(density, voxel_size).mean()  # type: ignore[no-any-return]


def free_cross_entropy(logit: Tensor, known: Tensor) -> Tensor:
    """A strong one: mean −log(1 − p) of occupancy logits [B, N] in the view volume, of samples [B] with known voxels.

    In one without, nothing would hold against this loss, and the whole field would become empty.
    """
    return (functional.softplus(logit) * known[:, None]).mean()


LIMIT = 2.0  # density above which both count as the same, per metre, as in KDBTS


def density_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean |min(σ_s, 2) − min(σ_t, 2)| over valid points [B, N], per metre; no gradient reaches the teacher.

    Beyond the limit both only say "a surface": how dense it is does not matter, and would rule the mean.
    """
    return weighted_mean((student.clamp_max(LIMIT) - teacher.detach().clamp_max(LIMIT)).abs(), valid)


def occupancy_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's occupancy (logits [B, N]) from the teacher's over valid points.

    A teacher mostly says "perhaps" of hidden space. A probability of 0.3 is a density of 0.02 per metre under the
    `OccupancyLink`, which clipped densities do not tell from empty space.
    """
    taught = teacher.detach()
    probability = probability_of_log_odds(taught)
    crossed, own = (
        functional.binary_cross_entropy_with_logits(logit, probability, reduction="none") for logit in (student, taught)
    )
    return weighted_mean(crossed - own, valid)


def rendered_class_loss(probabilities: Tensor, classes: Tensor, counted: Tensor, weights: Tensor) -> Tensor:
    """Weighted negative log-likelihood of composited class probabilities [B, R, K], in nats (S4C); 0 without rays.

    `classes`: [B, R], below K where they are counted. S4C lets invalid rays pass as rays of class 0 that are certain;
    here they do not count. `weights`: of the classes [K]; the mean is over them, as in S4C.
    """
    classes = classes.where(counted, 0)
    each = -(probabilities.gather(2, classes[..., None])[..., 0] + 1e-5).log()
    return weighted_mean(each, weights[classes] * counted, least=1e-6)


def occupied_cross_entropy(logits: Tensor, occupied: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross entropy of voxels, in nats; all [B, X, Y, Z], occupied 0 or 1, weight 0 if unknown."""
    return weighted_mean(functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none"), weight)


def surface_likelihood(height: Tensor, deviation: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean of |h − h*| / σ + log σ (Laplace) of heights [B, x, y], metres, NaN unknown; the middle is the median."""
    known = torch.isfinite(true)
    return weighted_mean((height - true.nan_to_num()).abs() / deviation + deviation.log(), weight * known)


def depth_likelihood(log_depth: Tensor, deviation: Tensor, true: Tensor) -> Tensor:
    """The same of log depth [B, h, w], at most 10 σ off (wrong matches); true metres, 0 unknown, infinite: sky."""
    known = (true > 0.0) & torch.isfinite(true)
    wanted = torch.where(known, true, torch.ones_like(true)).log()
    off = ((log_depth - wanted).abs() / deviation).clamp_max(10.0) + deviation.log()
    return (off * known).sum() / shared_count(known.sum())


def class_terms(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of places [N, K] whose classes [N] are known, each class with its weight [K], in nats."""
    return weighted_mean(functional.cross_entropy(logits, classes, reduction="none"), weights[classes], least=1e-6)
