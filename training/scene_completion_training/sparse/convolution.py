"""Convolutions on sets of voxels: submanifold, to the coarser level, and back.

They are plain torch. Where spconv is installed, it computes the submanifold ones on GPUs; the others are one dense
product each on every device. All are differentiable in features and weight, and have no bias. Weights list the offsets
of a `cube` or the children of `CELL`, x, y, z-lexicographic.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scene_completion_training.sparse.voxel_set import VoxelSet

SIZE_LIMIT = 32  # offsets that spconv's implicit matrix products take; larger kernels gather and add


def random_kernel(offsets: int, taken: float, inputs: int, outputs: int) -> Tensor:
    """Random weights [offsets, inputs, outputs] that keep the variance where so many offsets are occupied."""
    return torch.randn(offsets, inputs, outputs) / math.sqrt(taken * inputs)


def submanifold(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
    """Submanifold convolution [N, D]: y_i = Σ_o x_(i + o) W_o over the neighbours that are in the set.

    `features`: [N, C]; `weight`: [27, C, D], or [125, C, D] for edge 5; `voxels`: the set of N voxels.
    """
    with torch.autocast(features.device.type, enabled=False):  # in the precision of the features
        if features.is_cuda and gpu_library():
            return spconv_submanifold(features, weight.to(features.dtype), voxels)
        return _Submanifold.apply(features, weight.to(features.dtype), voxels)  # type: ignore[no-any-return, no-untyped-call]


def down(features: Tensor, weight: Tensor, fine: VoxelSet, coarse: VoxelSet, parent: Tensor) -> Tensor:
    """Features [N, C] by a weight [8, C, D] to the coarser set [M, D]; `parent` [N]: row of each voxel's parent."""
    children = features.new_zeros(8 * len(coarse), features.shape[1])
    children = children.index_copy(0, 8 * parent + fine.child, features)
    return children.view(len(coarse), 8 * features.shape[1]) @ weight.flatten(0, 1)


def up(features: Tensor, weight: Tensor, fine: VoxelSet, parent: Tensor) -> Tensor:
    """Its transpose, of features [M, C] of the coarser set with weight [8, C, D], to the voxels that are [N, D]."""
    children = features @ weight.transpose(0, 1).flatten(1)
    return children.view(-1, weight.shape[2])[8 * parent + fine.child]


class _Submanifold(torch.autograd.Function):
    """Gathers, multiplies and adds offset by offset, block by block, without keeping what was gathered."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.voxels = voxels  # type: ignore[attr-defined]
        centre = len(weight) // 2
        out = features @ weight[centre]
        for start, size, pairs in voxels.neighbours(round(len(weight) ** (1 / 3))):
            block = out[start : start + size]
            for offset, (rows, others) in enumerate(pairs):
                if offset != centre and len(rows):
                    block.index_add_(0, rows, features.index_select(0, others) @ weight[offset])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        features, weight = ctx.saved_tensors
        last, centre = len(weight) - 1, len(weight) // 2
        of_features = gradient @ weight[centre].t()
        of_weight = torch.zeros_like(weight)
        of_weight[centre] = features.t() @ gradient
        for start, size, pairs in ctx.voxels.neighbours(round(len(weight) ** (1 / 3))):
            block, inputs = of_features[start : start + size], features[start : start + size]
            for offset, (rows, others) in enumerate(pairs):
                if offset != centre and len(rows):
                    # The neighbour at this offset took the row with the opposite offset's weight.
                    back = gradient.index_select(0, others)
                    block.index_add_(0, rows, back @ weight[last - offset].t())
                    of_weight[last - offset].addmm_(inputs.index_select(0, rows).t(), back)
        return of_features, of_weight, None


@functools.cache
def gpu_library() -> bool:
    """Whether spconv can be imported, which then convolves on GPUs."""
    try:
        import spconv.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


def spconv_submanifold(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
    """As `submanifold`; who is whose neighbour is looked up once for a set and an edge."""
    import spconv.pytorch as spconv

    edge = round(len(weight) ** (1 / 3))
    place = voxels.index.int(), list(voxels.shape), voxels.scenes
    given: Any = spconv.SparseConvTensor(features, *place, indice_dict=voxels.kept)
    layer = _layer(edge, *weight.shape[1:], native=not features.is_cuda or len(weight) > SIZE_LIMIT)
    kernel = weight.reshape(edge, edge, edge, *weight.shape[1:]).permute(4, 0, 1, 2, 3).contiguous()  # [D, x, y, z, C]
    out = torch.func.functional_call(layer, {"weight": kernel}, (given,))
    voxels.kept.update(out.indice_dict)
    return out.features  # type: ignore[no-any-return]


@functools.cache
def _layer(edge: int, inputs: int, outputs: int, *, native: bool) -> Any:
    """A layer whose weight is given anew at each call."""
    import spconv.pytorch as spconv

    algorithm = spconv.ConvAlgo.Native if native else spconv.ConvAlgo.MaskImplicitGemm
    return spconv.SubMConv3d(inputs, outputs, edge, bias=False, indice_key=f"edge {edge}", algo=algorithm)
