"""Features of voxels at points: trilinear among the corners that are occupied."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from scene_completion_training.sparse.voxel_set import CELL, Pyramid, VoxelSet


def sample_levels(levels: Sequence[Tensor], pyramid: Pyramid, points: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features of every level at points; concatenate them for the hierarchical feature of masked scene modelling.

    On level l a point p stands at u = p / 2^l − 0.5, since the value of a voxel stands at its centre. Corners that are
    not occupied have no weight, and the other weights are made to sum to one. Where no corner is occupied, the feature
    is zero. Returns the features [P, D_l] of each level, and whether a point has one [P]: what has one on the finest
    level has one on every level.

    `levels`: features [N_l, D_l] of each level, finest first; `pyramid`: the sets of voxels that they belong to;
    `points`: [P, 4], columns (scene, x, y, z), in edges of the finest voxels: voxel i spans i to i + 1.
    """
    sampled = [
        sample(features, voxels, points, float(2**level))
        for level, (features, voxels) in enumerate(zip(levels, pyramid.levels, strict=True))
    ]
    return [features for features, _ in sampled], sampled[0][1]


def sample(features: Tensor, voxels: VoxelSet, points: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Features [P, D] of one set of voxels at points, and whether there are any [P].

    Args:
        features: [N, D].
        voxels: The set of N voxels.
        points: [P, 4], columns (scene, x, y, z).
        edge: Edge of these voxels in units of the points.
    """
    position = points[:, 1:] / edge - 0.5
    first = position.floor()
    fraction = (position - first).to(features)
    rows = voxels.around(torch.cat([points[:, :1], first], dim=1).long(), CELL).t()
    x, y, z = torch.stack([1 - fraction, fraction], dim=1).unbind(2)
    weights = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)
    weights = torch.where(rows >= 0, weights, 0)
    total = weights.sum(dim=1, keepdim=True)
    known = total > 0
    point, corner = (weights > 0).nonzero(as_tuple=True)
    shares = (weights / torch.where(known, total, 1))[point, corner]
    values = _WeightedSum.apply(features, point, rows[point, corner], shares, len(points))  # type: ignore[no-untyped-call]
    return values, known[:, 0]


class _WeightedSum(torch.autograd.Function):
    """out_p = Σ w_k f_(row_k) over the k of which point_k = p, for ascending points; differentiable in features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, point: Tensor, row: Tensor, weight: Tensor, points: int) -> Tensor:
        ctx.save_for_backward(point, row, weight)
        ctx.rows = len(features)
        return _weighted_sum(features, point, row, weight, points)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        point, row, weight = ctx.saved_tensors
        row, order = row.sort(stable=True)
        return _weighted_sum(gradient, row, point[order], weight[order], ctx.rows), None, None, None, None


def _weighted_sum(features: Tensor, point: Tensor, row: Tensor, weight: Tensor, points: int) -> Tensor:
    offsets = torch.searchsorted(point, torch.arange(points, device=point.device))
    return functional.embedding_bag(row, features, offsets, mode="sum", per_sample_weights=weight)
