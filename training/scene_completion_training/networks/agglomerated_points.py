"""The network of CUA-O3D: a sparse U-net on voxels, and a head for each teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from scene_completion_training.networks.feature_heads import FeatureHeads, HeadKind
from scene_completion_training.sparse.mink_unet import MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid

INPUTS = 3


class AgglomeratedPoints(nn.Module):
    """From voxels to features [N, 96] of the trunk, and by `heads` to those of several teachers."""

    def __init__(self, dims: Mapping[str, int], heads: HeadKind = "linear") -> None:
        super().__init__()
        self.trunk = MinkUNet18A(INPUTS)
        self.heads = FeatureHeads(self.trunk.channels, dims, heads)

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> AgglomeratedPoints:
        """An untrained one, as the configuration of a training (plain values) says."""
        return cls({teacher["name"]: teacher["dim"] for teacher in configuration["teachers"]}, configuration["heads"])

    def forward(self, inputs: Tensor, pyramid: Pyramid) -> Tensor:
        """Features [N, 96] of the finest voxels, of inputs [N, 3]."""
        out: Tensor = self.trunk(inputs, pyramid)
        return out
