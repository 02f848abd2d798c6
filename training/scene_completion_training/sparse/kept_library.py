"""Submanifold convolutions by spconv where it is installed: on GPUs, and forward alone on CPUs.

The convolutions down and up are one dense product each and stay in torch on every device.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from scene_completion_training.sparse.voxel_set import VoxelSet

SIZE_LIMIT = 32  # offsets that spconv's implicit matrix products take; larger kernels gather and add


@functools.cache
def gpu_library() -> bool:
    """Whether spconv can be imported, which then convolves on GPUs."""
    try:
        import spconv.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


def spconv_submanifold(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
    """As `convolution.submanifold`; who is whose neighbour is looked up once for a set and an edge."""
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
    name = f"edge {edge}"
    return spconv.SubMConv3d(inputs, outputs, edge, bias=False, indice_key=name, algo=algorithm)
