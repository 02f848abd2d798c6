"""One point per voxel of what comes block by block, in memory that grows with the voxels alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError

MOST_POINTS = 20_000_000
"""Of a scene: its arrays take a gigabyte then."""
SHIFT = 0.382
"""By which voxels are moved, in sides: floors and walls at round coordinates would lie on their borders."""
_PENDING = 2_000_000  # rows that wait for being summed up
_BITS = 21  # of a coordinate in a key
_HALF = 1 << (_BITS - 1)


def majority(keys: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The most frequent value of each key; of several the smallest.

    Args:
        keys, values: [M].

    Returns:
        Keys, ascending, and their values.
    """
    return _winners(*_counted(keys, values, np.ones(len(keys), np.int64)))


def _counted(*rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of key, value and count, each pair of key and value once, sorted."""
    keys, values, counts = rows
    order = np.lexsort((values, keys))
    keys, values = keys[order], values[order]
    new = np.ones(len(keys), bool)
    new[1:] = (keys[1:] != keys[:-1]) | (values[1:] != values[:-1])
    starts = np.flatnonzero(new)
    return keys[starts], values[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts[:0]


def _winners(
    keys: NDArray[np.int64], values: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.lexsort((-values, counts, keys))
    last = np.ones(len(keys), bool)
    last[:-1] = keys[order][1:] != keys[order][:-1]
    return keys[order][last], values[order][last]


@dataclass
class VoxelMeans:
    """Sums up points by voxels.

    Args:
        voxel: Side, metres.
        where: What the points are of, for errors.
    """

    voxel: float
    where: str
    _sums: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = field(default_factory=list)
    _votes: dict[str, list[tuple[NDArray[np.int64], ...]]] = field(default_factory=dict)
    _waiting: int = 0

    def add(
        self,
        points: NDArray[np.floating[Any]],
        means: NDArray[np.floating[Any]],
        votes: dict[str, NDArray[np.int64]],
    ) -> None:
        """Add points.

        Args:
            points: [M, 3], metres.
            means: [M, C], what is averaged beside them; C is the same in each call.
            votes: [M] by name, of which the most frequent is kept.

        Raises:
            SequenceError: A point is not finite or too far away, or there are more voxels than `MOST_POINTS`.
        """
        cells = np.floor(np.asarray(points, np.float64) / self.voxel + SHIFT)
        if not (np.abs(cells) < _HALF).all():
            what = f"has points beyond {_HALF * self.voxel / 1000:.0f} km, or without a place"
            cure = "Drop them, or move the scene to its origin: coordinates are metres"
            raise SequenceError(what, where=self.where, cure=cure)
        x, y, z = (cells.astype(np.int64) + _HALF).T
        keys = (x << 2 * _BITS) | (y << _BITS) | z
        ones = np.ones((len(keys), 1))
        self._sums.append(_summed(keys, np.hstack([ones, points, means])))
        for name, values in votes.items():
            self._votes.setdefault(name, []).append(_counted(keys, values, np.ones(len(keys), np.int64)))
        self._waiting += len(self._sums[-1][0])
        if self._waiting > _PENDING:
            self._sum_up()

    def _sum_up(self) -> None:
        keys, values = zip(*self._sums, strict=True)
        self._sums = [_summed(np.concatenate(keys), np.concatenate(values))]
        self._votes = {
            name: [_counted(*(np.concatenate(column) for column in zip(*rows, strict=True)))]
            for name, rows in self._votes.items()
        }
        self._waiting = 0
        if len(self._sums[0][0]) > MOST_POINTS:
            what = f"has more than {MOST_POINTS:,} voxels of {self.voxel:g} m"
            raise SequenceError(what, where=self.where, cure="Crop it, or choose a larger voxel")

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.int64]]]:
        """Means of points [N, 3] and of what came beside them [N, C], and the votes [N]; sorted by voxels."""
        if not self._sums:
            return np.empty((0, 3), np.float32), np.empty((0, 0), np.float32), {}
        self._sum_up()
        sums = self._sums[0][1]
        means = (sums[:, 1:] / sums[:, :1]).astype(np.float32)
        votes = {name: _winners(*rows[0])[1] for name, rows in self._votes.items()}  # type: ignore[call-arg]
        return means[:, :3], means[:, 3:], votes


def _summed(keys: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[starts], np.add.reduceat(values[order], starts, axis=0) if len(starts) else values[:0]


def unit(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normals [N, 3] of unit length; zero where they are shorter than 0.2: what they are means of disagrees."""
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 0.2, normals / np.maximum(length, 1e-9), 0.0).astype(np.float32)
