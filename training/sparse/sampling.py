"""Features of voxels at points: trilinear among the corners that are occupied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene_completion_training.sparse.voxel_set import CELL, Pyramid, VoxelSet


def sample_levels(levels: Sequence[Tensor], pyramid: Pyramid, points: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features of every level at points; concatenate them for the hierarchical feature of masked scene modelling.

    On level l a point p stands at u = p / 2^l − 0.5, since the value of a voxel stands at its centre. Corners that are
    not occupied have no weight, and the other weights are made to sum to one. Where no corner is occupied, the feature
    is zero.

    Args:
        levels: Features [N_l, D_l] of each level, finest first.
        pyramid: The sets of voxels that they belong to.
        points: [P, 4], columns (scene, x, y, z), in edges of the finest voxels: voxel i spans i to i + 1.

    Returns:
        The features [P, D_l] of each level, and whether a point has one [P]: what has one on the finest level has one
        on every level.
    """
    found = [sample(f, v, points, float(2**level)) for level, (f, v) in enumerate(zip(levels, pyramid.levels))]
    return [features for features, _ in found], found[0][1]


def sample(features: Tensor, voxels: VoxelSet, points: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Features [P, D] of one set of voxels at points, and whether there are any [P].

    Args:
        features: [N, D].
        edge: Edge of these voxels in units of the points.
    """
    position = points[:, 1:] / edge - 0.5
    first = position.floor()
    fraction = position - first
    scene_and_first = torch.cat([points[:, :1], first], dim=1).long()
    total = features.new_zeros(len(points), features.shape[1])
    weights = features.new_zeros(len(points))
    for corner in CELL:
        offset = torch.tensor(corner, device=points.device)
        weight = torch.where(offset.bool(), fraction, 1.0 - fraction).prod(dim=1).to(features)
        rows = voxels.find(scene_and_first + torch.cat([offset.new_zeros(1), offset]))
        hit = ((rows >= 0) & (weight > 0)).nonzero()[:, 0]
        total = total.index_add(0, hit, weight[hit, None] * features[rows[hit]])
        weights = weights.index_add(0, hit, weight[hit])
    known = weights > 0
    return total / torch.where(known, weights, 1.0)[:, None], known
