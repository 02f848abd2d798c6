"""Knowledge distillation between density fields (KDBTS; Han et al. 2024)."""

from torch import Tensor
from torch.nn import functional

from scene_completion_ros.voxels.occupancy import probability_of_log_odds
from scene_completion_training.losses.means import weighted_mean

LIMIT = 2.0  # density above which both count as the same, per metre, as in KDBTS


def density_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean |min(σ_s, 2) − min(σ_t, 2)| over the valid points; no gradient reaches the teacher.

    Beyond the limit both only say "a surface": how dense it is does not matter, and would rule the mean. `student`:
    density [B, N] per metre; `teacher`: density [B, N] per metre; `valid`: points that project into the student's image
    [B, N]; zero is returned where there are none.
    """
    return weighted_mean((student.clamp_max(LIMIT) - teacher.detach().clamp_max(LIMIT)).abs(), valid)


def occupancy_distillation(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's occupancy from the teacher's over the valid points.

    A teacher mostly says "perhaps" of hidden space. A probability of 0.3 is a density of 0.02 per metre under the
    `OccupancyLink`, which clipped densities do not tell from empty space. `student`: logit of the occupancy probability
    [B, N]; `teacher`: the same of the teacher [B, N]; `valid`: points that project into the student's image [B, N].
    """
    taught = teacher.detach()
    probability = probability_of_log_odds(taught)
    crossed, own = (
        functional.binary_cross_entropy_with_logits(logit, probability, reduction="none") for logit in (student, taught)
    )
    return weighted_mean(crossed - own, valid)
