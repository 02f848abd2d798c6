"""Networks of points that are trained with labels: the upper bounds of CUA-O3D and of masked scene modelling."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from scene_completion_training.arrays import Floats
from scene_completion_training.masked_scenes import standardised
from scene_completion_training.networks.agglomerated_field import INPUTS
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.mink_unet import LEVELS, MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, sample_levels

NetworkKind: TypeAlias = Literal["minkowski", "hu_net"]


class SupervisedPoints(nn.Module):
    """A network of voxels, and a linear layer for classes.

    It stands on the last features of a MinkUNet18A at the voxel of a point, or on those of all levels of a HUNet at the
    point, each normalised as in masked scene modelling.
    """

    def __init__(self, trunk: MinkUNet18A | VoxelHUNet, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(sum(trunk.dims) if isinstance(trunk, VoxelHUNet) else trunk.channels, classes)

    @classmethod
    def of(cls, configuration: Mapping[str, Any], classes: int) -> "SupervisedPoints":
        """An untrained one, by the configuration of a training (plain values)."""
        if configuration["network"] == "minkowski":
            return cls(MinkUNet18A(INPUTS), classes)
        return cls(VoxelHUNet(HUNetSettings.of(configuration["hu_net"])), classes)

    def forward(self, index: Tensor, inputs: Tensor, points: Tensor) -> Tensor:
        """Logits [P, K] at points [P, 4] in voxels [N, 4] with inputs [N, C].

        Voxels are (scene, x, y, z), at least one; points the same in edges of voxels: voxel i spans i to i + 1.
        """
        x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
        voxels, order = VoxelSet.of(index, (x, y, z))
        if isinstance(self.trunk, VoxelHUNet):
            pyramid = Pyramid.of(voxels, self.trunk.settings.levels)
            levels = sample_levels(self.trunk(inputs[order], pyramid), pyramid, points)[0]
            return self.head(torch.cat([standardised(level) for level in levels], dim=1))  # type: ignore[no-any-return]
        logits: Tensor = self.head(self.trunk(inputs[order], Pyramid.of(voxels, LEVELS)))
        return logits[voxels.find(points.long())]


def network_inputs(features: Floats, network: NetworkKind, kind: str) -> Floats:
    """What goes in for voxels [V, C], of `point_features` [V, 6]: all of HUNet's; MinkowskiNet's ones or colours."""
    if network == "hu_net":
        return features
    colours = features[:, :INPUTS]
    return colours if kind == "colour" else np.ones_like(colours)
