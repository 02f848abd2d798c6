"""What masked scene modelling minimises: features of hidden voxels, as a teacher sees them in another view (MSM).

The network meets the voxels that are visible alone; its decoder fills in the hidden ones from the coarsest level to the
finest. Its teacher, an average of its own weights, sees another view of the scene with nothing hidden. On every level
the network has to say what the teacher says of the same places. The distance and the normalisation are choices of this
project: those of the source are not known.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.sparse.hu_net import VoxelHUNet
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, sample_levels


class SceneView:
    """Voxels [N, 4] of a batch of scenes in one view, of which there is one at least, ready for a network."""

    def __init__(self, index: Tensor, features: Tensor, levels: int) -> None:
        x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
        voxels, self.order = VoxelSet.of(index, (x, y, z))  # order [N]: which of the given voxels stands in each row
        self.pyramid = Pyramid.of(voxels, levels)  # the voxels and their coarser levels
        self.features = features[self.order]  # [N, F] in the order of the pyramid's finest level
        self.levels = levels


def student_features(network: VoxelHUNet, scene: SceneView, masked: Tensor) -> list[Tensor]:
    """What the student makes of every level [N_l, D_l] of a view, finest first, from the visible voxels alone.

    Masked [N] are those that are hidden, in the order that they were given in.
    """
    hidden, finest = masked[scene.order], scene.pyramid.levels[0]
    shown = VoxelSet(finest.index[~hidden], finest.shape)  # a part of a sorted set is sorted
    made: list[Tensor] = network(scene.features[~hidden], scene.pyramid, Pyramid.of(shown, scene.levels))
    return made


def sampled(levels: Sequence[Tensor], scene: SceneView, points: Tensor) -> list[Tensor]:
    """Features [P, D_l] of every level at points [P, 4] of (scene, x, y, z), in edges of the finest voxels."""
    return sample_levels(levels, scene.pyramid, points)[0]


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos between features [P, D] and the teacher's [P, D], both with mean 0 and deviation 1 a point.

    The teacher's have their mean over the points taken away: what it says of every voxel is no part of the answer
    (DINO, eq. 4, with the mean of a batch). Otherwise a network learns to say the same everywhere: the loss falls, and
    the spread of the features with it. Zero where there is no point.
    """
    if not len(student):
        return student.sum()
    student, teacher = standardised(student), standardised(teacher)
    return (1.0 - functional.cosine_similarity(student, teacher - teacher.mean(dim=0), dim=1)).mean()


def standardised(features: Tensor) -> Tensor:
    """Features [P, D] with mean 0 and deviation 1 over each row: a layer norm without weights."""
    return functional.layer_norm(features, features.shape[-1:])


def spread(features: Tensor) -> float:
    """How far features [P, D] point in different directions: 1 if evenly in all, 0 if all in one.

    It is the standard deviation over the points of the features brought to length 1, mean over the dimensions, times
    √D. Where it falls towards 0, the teacher says the same of every voxel, and there is nothing left to learn.
    """
    if len(features) < 2:
        return math.nan
    directions = functional.normalize(standardised(features), dim=1)
    return float(directions.std(dim=0, correction=0).mean()) * math.sqrt(features.shape[1])


def momentum(step: int, steps: int, first: float) -> float:
    """Share of itself that the teacher keeps in a step: from `first` to 1 along a cosine over the training."""
    return 1.0 - (1.0 - first) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps)))


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, kept: float) -> None:
    """Moves the weights of the teacher towards the student's: θ' ← m θ' + (1 - m) θ, with m = `kept`."""
    for average, value in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(kept).add_(value, alpha=1.0 - kept)
