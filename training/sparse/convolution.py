"""Convolutions on sets of voxels: submanifold, to the coarser level, and back; and what computes them."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.sparse.voxel_set import VoxelSet

BackendName = Literal["torch", "ocnn"]


class Backend(Protocol):
    """What computes sparse convolutions; all are differentiable in features and weight, and have no bias.

    Weights list the offsets of `CUBE` or the children of `CELL`, x, y, z-lexicographic.
    """

    def subm(self, features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
        """Submanifold convolution of edge 3: y_i = Σ_o x_(i + o) W_o over the neighbours that are in the set.

        Args:
            features: [N, C].
            weight: [27, C, D].
            voxels: The set of N voxels.

        Returns:
            [N, D].
        """
        ...

    def down(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Convolution of edge 2 and stride 2, of features [N, C] with weight [8, C, D], to the coarser set [M, D].

        Args:
            parent: [N], row in `coarse` of each voxel of `fine`.
        """
        ...

    def up(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Its transpose, of features [M, C] of the coarser set with weight [8, C, D], to the voxels that are [N, D]."""
        ...


class TorchBackend:
    """Plain torch, on any device."""

    def subm(self, features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
        """Of `Backend`."""
        out = features @ weight[13]
        for offset, (rows, others) in enumerate(voxels.neighbours):
            out = out.index_add(0, rows, features[others] @ weight[offset])
            out = out.index_add(0, others, features[rows] @ weight[26 - offset])
        return out

    def down(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        children = features.new_zeros(8 * len(coarse), features.shape[1])
        children = children.index_copy(0, 8 * parent + fine.child, features)
        return children.view(len(coarse), -1) @ weight.flatten(0, 1)

    def up(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        children = features @ weight.transpose(0, 1).flatten(1)
        return children.view(-1, weight.shape[2])[8 * parent + fine.child]


def backend(name: BackendName) -> Backend:
    """What computes sparse convolutions.

    Raises:
        ConfigurationError: The name is not known, or the package of this name is not installed.
    """
    if name == "torch":
        return TorchBackend()
    raise ConfigurationError(f"no sparse convolutions are called {name!r}", where="backend", cure="Take torch or ocnn")
