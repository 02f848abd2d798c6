"""The network of CUA-O3D: a sparse U-net on voxels, and a head for each teacher."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scene_completion_training.networks.feature_heads import FeatureHeads, HeadKind
from scene_completion_training.sparse.mink_unet import LEVELS, MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet

INPUTS = 3


class AgglomeratedPoints(nn.Module):
    """From voxels to features of the trunk, and by `heads` to those of several teachers."""

    def __init__(self, dims: Mapping[str, int], heads: HeadKind = "linear") -> None:
        super().__init__()
        self.trunk = MinkUNet18A(INPUTS)
        self.heads = FeatureHeads(self.trunk.channels, dims, heads)

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> "AgglomeratedPoints":
        """An untrained one, as the configuration of a training (plain values) says."""
        return cls({teacher["name"]: teacher["dim"] for teacher in configuration["teachers"]}, configuration["heads"])

    def forward(self, index: Tensor, inputs: Tensor) -> Tensor:
        """Features [N, 96] of the trunk for voxels [N, 4] of (scene, x, y, z), at least one, with inputs [N, 3]."""
        x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
        voxels, order = VoxelSet.of(index, (x, y, z))
        features: Tensor = self.trunk(inputs[order], Pyramid.of(voxels, LEVELS))
        return torch.empty_like(features).index_copy(0, order, features)
