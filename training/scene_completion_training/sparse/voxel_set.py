"""Sets of occupied voxels: unique, sorted, several scenes in one; their coarser levels; features of them at points.

Convolutions on sets of voxels: submanifold, to the coarser level, and back.

They are plain torch, differentiable in features and weight, and have no bias. Weights list the offsets of a `cube` or
the children of `CELL`, x, y, z-lexicographic.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

Shape = tuple[int, int, int]
# The eight children of a voxel, or corners of a cell, x, y, z-lexicographic.
CELL = tuple(itertools.product((0, 1), repeat=3))
Offsets = tuple[tuple[int, ...], ...]


@functools.cache
def cube(edge: int) -> Offsets:
    """The edge³ offsets of a kernel of odd edge, x, y, z-lexicographic: the opposite of offset i is the i-th last."""
    return tuple(itertools.product(range(-(edge // 2), edge // 2 + 1), repeat=3))


BORDER = 2  # cells on every side of the grid that have a number: neighbours of neighbours of the grid
BLOCK = 4096  # rows of a block of neighbours: what one gathers and adds to then stays in the cache
TABLE_CELLS = 1 << 25  # grids of more cells are searched instead of having a table


class Block(NamedTuple):
    """Rows of a set that follow each other, and their neighbours."""

    start: int
    size: int
    # For each offset of a cube, rows counted from the first [K], ascending, and the rows of their neighbours at this
    # offset in the whole set [K].
    pairs: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class VoxelSet:
    """Occupied voxels of one grid in one or several scenes; make it with `of`."""

    index: Tensor  # [N, 4] int64, columns (scene, x, y, z), unique, in lexicographic order
    shape: Shape  # voxels of the grid along x, y, z

    @classmethod
    def of(cls, index: Tensor, shape: Shape) -> "tuple[VoxelSet, Tensor]":
        """The set of these voxels, and the order [N] in which they stand: its `index` is `index[order]`.

        `index`: [N, 4] integers, columns (scene, x, y, z), in any order, each voxel once and within the grid; N may be
        zero. `shape`: voxels of the grid.
        """
        index = index.long()
        assert _inside(index, shape).all(), "voxels lie outside of the grid"
        keys, order = _keys(index, shape).sort()
        assert (keys[1:] > keys[:-1]).all(), "voxels are there more than once"
        return cls(index[order], shape), order

    def __len__(self) -> int:
        return len(self.index)

    @functools.cached_property
    def scenes(self) -> int:
        """One more than the largest number of a scene."""
        return int(self.index[-1, 0]) + 1 if len(self) else 0

    @functools.cached_property
    def keys(self) -> Tensor:
        """One number a voxel [N], ascending; cells of the border have numbers of their own."""
        return _keys(self.index, self.shape)

    @functools.cached_property
    def child(self) -> Tensor:
        """Which of the eight children of its parent a voxel is [N], 0 to 7 in the order of `CELL`."""
        x, y, z = (self.index[:, 1:] & 1).unbind(1)
        return 4 * x + 2 * y + z

    def coarser(self) -> "tuple[VoxelSet, Tensor]":
        """Occupied voxels of twice the size, an odd edge rounded up, and the row [N] in it of each voxel's parent."""
        scene, rest = self.index[:, :1], self.index[:, 1:] >> 1
        x, y, z = ((edge + 1) // 2 for edge in self.shape)
        index = torch.cat([scene, rest], dim=1)
        keys, parent = torch.unique(_keys(index, (x, y, z)), return_inverse=True)
        first = torch.empty_like(keys).scatter_(0, parent, torch.arange(len(index), device=index.device))
        return VoxelSet(index[first], (x, y, z)), parent

    def find(self, index: Tensor) -> Tensor:
        """Rows [M] of voxels [M, 4] of (scene, x, y, z) in this set; -1 where a voxel is not in it."""
        return self.around(index, ((0, 0, 0),))[0]

    def around(self, index: Tensor, offsets: Sequence[tuple[int, ...]]) -> Tensor:
        """Rows [len(offsets), M] of voxels (scene, x, y, z) at offsets from others [M, 4]; -1 where the set has none.

        Others may lie one cell outside of the grid, and no offset leads farther than `BORDER` cells from it.
        """
        edges = torch.tensor(self.shape, device=index.device)
        scene, place = index[:, 0], index[:, 1:]
        there = (scene >= 0) & (scene < self.scenes) & ((place >= -1) & (place <= edges)).all(dim=1)
        keys = _keys(index, self.shape)[there]
        _, y, z = (edge + 2 * BORDER for edge in self.shape)
        steps = [(dx * y + dy) * z + dz for dx, dy, dz in offsets]
        found = torch.stack([self._find_keys(keys + step) for step in steps])
        if found.shape[1] == len(index):
            return found
        rows = found.new_full((len(offsets), len(index)), -1)
        rows[:, there] = found
        return rows

    @functools.cached_property
    def _table(self) -> Tensor | None:
        """Row of each key, -1 where no voxel is; None for grids whose table would be large."""
        cells = self.scenes * math.prod(edge + 2 * BORDER for edge in self.shape)
        if cells > TABLE_CELLS:
            return None
        table = torch.full((cells,), -1, dtype=torch.int32, device=self.index.device)
        table[self.keys] = torch.arange(len(self), dtype=torch.int32, device=self.index.device)
        return table

    def _find_keys(self, keys: Tensor) -> Tensor:
        """Rows of keys that belong to cells of this grid or of its border; -1 where no voxel is."""
        if self._table is not None:
            return self._table[keys].long()
        rows = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        return torch.where(self.keys[rows] == keys, rows, -1)

    @functools.cached_property
    def _neighbours(self) -> dict[int, tuple[Block, ...]]:
        return {}

    def neighbours(self, edge: int = 3) -> tuple[Block, ...]:
        """Who is whose neighbour within a cube of edge 3 or 5, in blocks of rows; looked up once."""
        if edge not in self._neighbours:
            parts = ((start, self.index[start : start + BLOCK]) for start in range(0, len(self), BLOCK))
            self._neighbours[edge] = tuple(self._block(start, part, cube(edge)) for start, part in parts)
        return self._neighbours[edge]

    def _block(self, start: int, index: Tensor, offsets: Offsets) -> Block:
        found = self.around(index, offsets)
        offset, row = (found >= 0).nonzero(as_tuple=True)
        sizes = torch.bincount(offset, minlength=len(offsets)).tolist()
        pairs = zip(row.split_with_sizes(sizes), found[offset, row].split_with_sizes(sizes), strict=True)
        return Block(start, len(index), tuple(pairs))


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A set of voxels and its coarser levels."""

    levels: tuple[VoxelSet, ...]  # the sets, finest first
    parents: tuple[Tensor, ...]  # of each level but the last, the row [N_l] of each voxel's parent in the next level

    @classmethod
    def of(cls, voxels: VoxelSet, levels: int) -> "Pyramid":
        """The pyramid of a set, of one level or more."""
        sets, parents = [voxels], []
        for _ in range(levels - 1):
            coarse, parent = sets[-1].coarser()
            sets.append(coarse)
            parents.append(parent)
        return cls(tuple(sets), tuple(parents))


def _inside(index: Tensor, shape: Shape) -> Tensor:
    """Which voxels [N, 4] lie in the grid [N]."""
    edges = torch.tensor(shape, device=index.device)
    return (index[:, 0] >= 0) & ((index[:, 1:] >= 0) & (index[:, 1:] < edges)).all(dim=1)


def _keys(index: Tensor, shape: Shape) -> Tensor:
    """Numbers of voxels [N, 4] in a grid with a border on every side, in lexicographic order."""
    scene, *place = index.unbind(1)
    for edge, along in zip(shape, place, strict=True):
        scene = scene * (edge + 2 * BORDER) + along + BORDER
    return scene


def sample_levels(levels: Sequence[Tensor], pyramid: Pyramid, points: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features of every level at points; concatenate them for the hierarchical feature of masked scene modelling.

    On level l a point p stands at u = p / 2^l − 0.5, since the value of a voxel stands at its centre. Corners that are
    not occupied have no weight, and the other weights are made to sum to one. Where no corner is occupied, the feature
    is zero. Takes features [N_l, D_l] of each level of a pyramid, finest first, and points [P, 4] of (scene, x, y, z),
    edges of the finest voxels: voxel i spans i to i + 1. Returns features [P, D_l] of each level, and whether a point
    has one [P]: what has one on the finest level has one on every level.
    """
    pairs = enumerate(zip(levels, pyramid.levels, strict=True))
    sampled = [sample(features, voxels, points, float(2**level)) for level, (features, voxels) in pairs]
    return [features for features, _ in sampled], sampled[0][1]


def sample(features: Tensor, voxels: VoxelSet, points: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Features [P, D] of voxels with features [N, D] at points [P, 4] of (scene, x, y, z), and where there are any [P].

    `edge`: that of these voxels in units of the points.
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


def random_kernel(offsets: int, taken: float, inputs: int, outputs: int) -> Tensor:
    """Random weights [offsets, inputs, outputs] that keep the variance where so many offsets are occupied."""
    return torch.randn(offsets, inputs, outputs) / math.sqrt(taken * inputs)


def submanifold(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
    """Submanifold convolution [N, D]: y_i = Σ_o x_(i + o) W_o over the neighbours that are in the set.

    `features`: [N, C]; `weight`: [27, C, D], or [125, C, D] for edge 5; `voxels`: the set of N voxels.
    """
    with torch.autocast(features.device.type, enabled=False):  # in the precision of the features
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
