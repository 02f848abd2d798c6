"""Random sets of voxels."""

import itertools

import torch
from torch import Tensor

from scene_completion_training.sparse.voxel_set import Shape, VoxelSet

SHAPE = (9, 7, 6)


def random_index(shape: Shape = SHAPE, scenes: int = 2, share: float = 0.3, seed: int = 0) -> Tensor:
    """Voxels [N, 4] in random order."""
    cells = torch.tensor(list(itertools.product(range(scenes), *map(range, shape))))
    generator = torch.Generator().manual_seed(seed)
    return cells[torch.randperm(len(cells), generator=generator)[: int(share * len(cells))]]


def random_set(shape: Shape = SHAPE, scenes: int = 2, share: float = 0.3, seed: int = 0) -> VoxelSet:
    """The set of such voxels."""
    return VoxelSet.of(random_index(shape, scenes, share, seed), shape)[0]
