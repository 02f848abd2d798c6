"""Voxels of clouds: sets of them at random offsets, and back; means of what comes block by block.

The memory of means grows with the voxels alone.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.transforms import about
from scene_completion_training.arrays import Doubles, Floats, Ints, Random, Reals
from scene_completion_training.sparse.mink_unet import LEVELS

# Range of the scale, and the largest angle about x and y, of a training view (released loader of CUA-O3D).
SCALE, TILT = (0.9, 1.1), math.pi / 64
# Offsets along an axis that a network can tell apart, voxels: those of its coarsest voxels come again.
OFFSETS = 2 ** (LEVELS - 1)
MOST_POINTS = 20_000_000  # of a scene: its arrays take a gigabyte then
SHIFT = 0.382  # by which voxels are moved, in sides: floors and walls at round coordinates would lie on their borders
_PENDING = 2_000_000  # rows that wait for being summed up
_BITS = 21  # of a coordinate in a key
_HALF = 1 << (_BITS - 1)


def distinct(cells: Ints) -> tuple[Ints, Ints]:
    """Where each of cells [N, 3], none below 0, comes first [M], by x, y, z, and which of these every cell is [N]."""
    keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0, initial=0) + 1))
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return first, number.reshape(-1)


def voxels_of(place: Reals, generator: Random) -> tuple[Ints, Ints, Ints]:
    """The voxels that hold points [N, 3], which are given in edges of voxels, none below 0.

    Returns:
        Voxels [M, 3]; for each the row of one of its points, drawn at random [M]; for each point its voxel's row [N].
    """
    order = generator.permutation(len(place))
    cells = place.astype(np.int64)
    first, number = distinct(cells[order])
    voxel = np.empty(len(place), np.int64)
    voxel[order] = number
    return cells[order[first]], order[first], voxel


def voxelised(points: Floats, edge: float, generator: Random) -> tuple[Ints, Ints, Ints]:
    """As `voxels_of` points [N, 3], metres, at a random offset within a coarsest voxel."""
    low = points.min(axis=0, initial=np.inf).astype(np.float64)
    return voxels_of((points - low) / edge + generator.uniform(0.0, OFFSETS, 3), generator)


def turned(points: Floats, generator: Random) -> Floats:
    """Points [N, 3] as a training sees them: turned about z, tilted and scaled."""
    yaw, (roll, pitch) = generator.uniform(-math.pi, math.pi), generator.uniform(-TILT, TILT, 2)
    matrix = about(0, roll) @ (about(1, pitch) @ (about(2, yaw) * generator.uniform(*SCALE)))
    return np.asarray(points @ matrix.T.astype(np.float32), np.float32)


def grouped(ids: Ints, values: NDArray[Any]) -> tuple[Ints, NDArray[Any]]:
    """Distinct rows of ids [M, W], sorted, and the sums of the values [M, C] of each."""
    order = np.lexsort(ids.T[::-1])
    ids = ids[order]
    starts = np.flatnonzero(np.append(True, (ids[1:] != ids[:-1]).any(axis=1))[: len(ids)])
    return ids[starts], np.add.reduceat(values[order], starts, axis=0) if len(starts) else values[:0]


def majority(keys: Ints, values: Ints, counts: NDArray[Any] | None = None) -> tuple[Ints, Ints]:
    """The most frequent value of each key; of several the smallest. Returns keys, ascending, and their values.

    `keys`, `values`: [M]; `counts`: how often each row counts [M]; once by default.
    """
    rows = np.ones(len(keys)) if counts is None else counts
    pairs, often = grouped(np.stack([keys, values], axis=-1), rows[:, None])
    pairs = pairs[np.lexsort((-pairs[:, 1], often[:, 0], pairs[:, 0]))]
    last = np.append(pairs[1:, 0] != pairs[:-1, 0], True)[: len(pairs)]
    return pairs[last, 0], pairs[last, 1]


@dataclass
class VoxelMeans:
    """Sums up points by voxels."""

    voxel: float  # side, metres
    where: str  # what the points are of, for errors
    # Key of the voxel and votes; count, points and further columns. Each pair is summed up already.
    _rows: list[tuple[Ints, Doubles]] = field(default_factory=list)
    _votes: tuple[str, ...] = ()

    def add(
        self,
        points: Reals,  # [M, 3], metres
        means: Reals,  # [M, C], further columns to average
        # [M] by name, of which the most frequent is kept. C and the names are the same in each call.
        votes: dict[str, Ints],
    ) -> None:
        """Adds points; a SequenceError if one is not finite or too far away, or voxels are more than `MOST_POINTS`."""
        cells = np.floor(np.asarray(points, np.float64) / self.voxel + SHIFT)
        if not (np.abs(cells) < _HALF).all():
            what = f"has points beyond {_HALF * self.voxel / 1000:.0f} km, or without a place"
            cure = "Drop them, or move the scene to its origin: coordinates are metres"
            raise SequenceError(what, where=self.where, cure=cure)
        x, y, z = (cells.astype(np.int64) + _HALF).T
        ids = np.stack([(x << 2 * _BITS) | (y << _BITS) | z, *votes.values()], axis=-1)
        self._rows.append(grouped(ids, np.hstack([np.ones((len(ids), 1)), points, means])))
        self._votes = tuple(votes)
        if sum(len(rows) for rows, _ in self._rows[1:]) > _PENDING:
            self._sum_up()

    def _sum_up(self) -> None:
        ids, values = (np.concatenate(column) for column in zip(*self._rows, strict=True))
        self._rows = [grouped(ids, values)]
        if len(self._rows[0][0]) > MOST_POINTS:
            what = f"has more than {MOST_POINTS:,} voxels of {self.voxel:g} m"
            raise SequenceError(what, where=self.where, cure="Crop it")

    def result(self) -> tuple[Floats, Floats, dict[str, Ints]]:
        """Means of points [N, 3] and of further columns [N, C], and the votes [N]; sorted by voxels."""
        self._sum_up()
        ids, values = self._rows[0]
        _, sums = grouped(ids[:, :1], values)
        means = (sums[:, 1:] / sums[:, :1]).astype(np.float32)
        votes = {name: majority(ids[:, 0], ids[:, k], values[:, 0])[1] for k, name in enumerate(self._votes, start=1)}
        return means[:, :3], means[:, 3:], votes


def unit(normals: Floats) -> Floats:
    """Normals [N, 3] of unit length; zero where they are shorter than 0.2: what they are means of disagrees."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 0.2, normals / np.maximum(length, 1e-9), 0.0).astype(np.float32)
