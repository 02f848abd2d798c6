"""Convolutions on sets of voxels: submanifold, to the coarser level, and back; and what computes them."""

from __future__ import annotations

from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.sparse.voxel_set import VoxelSet

BackendName = Literal["torch", "ocnn"]
CENTRE = 13
"""Where a voxel itself stands in `CUBE`."""


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
        with torch.autocast(features.device.type, enabled=False):  # in the precision of the features
            return _Submanifold.apply(features, weight.to(features.dtype), voxels)  # type: ignore[no-any-return, no-untyped-call]

    def down(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        children = features.new_zeros(8 * len(coarse), features.shape[1])
        children = children.index_copy(0, 8 * parent + fine.child, features)
        return children.view(len(coarse), 8 * features.shape[1]) @ weight.flatten(0, 1)

    def up(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        children = features @ weight.transpose(0, 1).flatten(1)
        return children.view(-1, weight.shape[2])[8 * parent + fine.child]


_OCTREES: WeakKeyDictionary[VoxelSet, tuple[Any, Tensor]] = WeakKeyDictionary()
"""Of each set its octree, and the row of each of the octree's finest nodes [N]."""


class OcnnBackend:
    """The package ocnn: octrees of Wang et al., "O-CNN" (2017)."""

    def subm(self, features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
        """Of `Backend`."""
        if not len(voxels):
            return features @ weight[CENTRE]
        octree, rows = _octree(voxels)
        columns = _ocnn().nn.octree2col(features[rows], octree, octree.depth, "333", 1, True)
        return _reordered(columns.flatten(1) @ weight.flatten(0, 1), rows)

    def down(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        if not len(fine):
            return features @ weight[0]
        octree, rows = _octree(fine)
        columns = _ocnn().nn.octree2col(features[rows], octree, octree.depth, "222", 2, True)
        return _reordered(columns.flatten(1) @ weight.flatten(0, 1), _octree_rows(octree, octree.depth - 1, coarse))

    def up(self, features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
        """Of `Backend`."""
        if not len(fine):
            return features @ weight[0]
        octree, rows = _octree(fine)
        columns = features[_octree_rows(octree, octree.depth - 1, coarse)] @ weight.transpose(0, 1).flatten(1)
        columns = columns.view(-1, 8, weight.shape[2])
        return _reordered(_ocnn().nn.col2octree(columns, octree, octree.depth, "222", 2, True), rows)


def _ocnn() -> Any:
    """The package.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    try:
        import ocnn
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision of another torch
        raise ConfigurationError(
            f"the package ocnn cannot be imported: {error}",
            where="sparse convolutions",
            cure="Install the extra ocnn, or take the back-end torch",
        ) from error
    return ocnn


def _octree(voxels: VoxelSet) -> tuple[Any, Tensor]:
    if voxels not in _OCTREES:
        depth = (max(voxels.shape) - 1).bit_length() + 1  # so that there is a coarser level
        octree = _ocnn().octree.Octree(depth, 0, voxels.scenes, voxels.index.device)
        scene, centre = voxels.index[:, 0], voxels.index[:, 1:] + 0.5
        points = _ocnn().octree.Points(centre, batch_id=scene, batch_size=voxels.scenes)
        octree.build_octree(points, 0.0, float(2**depth))
        octree.construct_all_neigh()
        _OCTREES[voxels] = octree, _octree_rows(octree, depth, voxels)
    return _OCTREES[voxels]


def _octree_rows(octree: Any, depth: int, voxels: VoxelSet) -> Tensor:
    """The row in a set of each occupied node of a depth [N]."""
    x, y, z, scene = octree.xyzb(depth, nempty=True)
    return voxels.find(torch.stack([scene, x, y, z], dim=1).long())


def _reordered(features: Tensor, rows: Tensor) -> Tensor:
    """Each of the features [N, D] in its row [N]."""
    return features[rows.argsort()]


def backend(name: BackendName) -> Backend:
    """What computes sparse convolutions.

    Raises:
        ConfigurationError: The name is not known, or the package of this name is not installed.
    """
    if name == "torch":
        return TorchBackend()
    if name == "ocnn" and _ocnn():
        return OcnnBackend()
    raise ConfigurationError(f"no sparse convolutions are called {name!r}", where="backend", cure="Take torch or ocnn")


class _Submanifold(torch.autograd.Function):
    """Gathers, multiplies and adds offset by offset, block by block, without keeping what was gathered."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.voxels = voxels  # type: ignore[attr-defined]
        out = features @ weight[CENTRE]
        for start, size, pairs in voxels.neighbours:
            block = out[start : start + size]
            for offset, (rows, others) in enumerate(pairs):
                if offset != CENTRE and len(rows):
                    block.index_add_(0, rows, features.index_select(0, others) @ weight[offset])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        of_features = gradient @ weight[CENTRE].t()
        of_weight = torch.zeros_like(weight)
        of_weight[CENTRE] = features.t() @ gradient
        for start, size, pairs in ctx.voxels.neighbours:
            block, inputs = of_features[start : start + size], features[start : start + size]
            for offset, (rows, others) in enumerate(pairs):
                if offset != CENTRE and len(rows):
                    # The neighbour at this offset took the row with the opposite offset's weight.
                    back = gradient.index_select(0, others)
                    block.index_add_(0, rows, back @ weight[26 - offset].t())
                    of_weight[26 - offset].addmm_(inputs.index_select(0, rows).t(), back)
        return of_features, of_weight, None
