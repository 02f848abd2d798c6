"""Occupancy of points: against what the stereo depth of many frames says, and where no view has any evidence."""

from torch import Tensor
from torch.nn import functional

from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.losses.means import shared_count


def occupancy_cross_entropy(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted binary cross-entropy of voxels against occupancy fused from the stereo depth of many frames.

    `logit`: logit of the probability [B, N] at voxel centres, see `OccupancyLink`; `target`: occupancy evidence [B, N]
    in 0..1; `weight`: trust in the target [B, N].
    """
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
