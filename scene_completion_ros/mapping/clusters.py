"""Connected clusters of some voxels, and their centroids: where the things are that answer a query.

Voxels that share a face, an edge or a corner are connected, if they belong to the same group. `all_matches` gathers
the voxels that answer a query, of all images of one moment.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState

MOST_CLUSTERS = 16


@dataclass(frozen=True, eq=False)
class Clusters:
    """C clusters, by group and the largest first."""

    group: NDArray[np.uint8]  # uint8 [C]
    size: NDArray[np.int64]  # int64 [C], voxels of each
    centroid: NDArray[np.float64]  # float64 [C, 3], mean of their centres in the grid frame, metres


class VoxelClusters:
    """Finds clusters on one grid; keeps 4 bytes a voxel of it. `most`: clusters at most that are told of each group."""

    def __init__(self, grid: VoxelGrid, most: int = MOST_CLUSTERS) -> None:
        self.grid, self._most = grid, most
        self._number = np.full(grid.shape, -1, dtype=np.int32)

    def __call__(self, index: NDArray[np.int32], group: NDArray[np.uint8]) -> Clusters:
        """The largest clusters of each group: voxels `index`, int32 [N, 3], all different, in `group`, uint8 [N]."""
        cluster = connect(np.ascontiguousarray(index), np.ascontiguousarray(group), self._number)
        begins = cluster == np.arange(len(cluster))
        first, number = np.flatnonzero(begins), (np.cumsum(begins) - 1)[cluster]
        size = np.bincount(number, minlength=len(first))
        sums = np.stack([np.bincount(number, weights=index[:, axis], minlength=len(first)) for axis in range(3)], -1)
        of_group = group[first]
        order = np.lexsort((first, -size, of_group))
        # The place of each cluster among those of its group.
        rank = np.arange(len(order)) - np.searchsorted(of_group[order], of_group[order])
        kept = order[rank < self._most]
        centres = (sums / np.maximum(size, 1)[:, None] + 0.5) * self.grid.voxel_size + np.asarray(self.grid.origin)
        return Clusters(of_group[kept], size[kept], centres[kept])


@functools.cache
def compile_clusters() -> None:
    """Have the kernel compiled, or loaded, before a frame needs it."""
    connect(np.zeros((0, 3), np.int32), np.zeros(0, np.uint8), np.zeros((0, 0, 0), np.int32))


def connect(index: NDArray[np.int32], group: NDArray[np.uint8], number: NDArray[np.int32]) -> NDArray[np.int32]:
    """The first voxel of each voxel's cluster, int32 [N]. `number`: int32 [X, Y, Z], all -1, also afterwards."""
    first = np.arange(len(index), dtype=np.int32)
    _kernel()(index, group, number, first)
    return first


@inlined
def first_of(first: Any, voxel: Any) -> Any:
    """Follow links to the first voxel, and shorten them."""
    while first[voxel] != voxel:
        first[voxel] = first[first[voxel]]
        voxel = first[voxel]
    return voxel


@inlined
def joined(first: Any, group: Any, number: Any, voxel: Any, i: Any, j: Any, k: Any) -> Any:
    """Join a voxel with the one at a place, where there is one of its group; whether there was."""
    sizes = number.shape
    if i < 0 or j < 0 or k < 0 or j >= sizes[1] or k >= sizes[2]:
        return False
    near = number[i, j, k]
    if near < 0 or group[near] != group[voxel]:
        return False
    one, other = first_of(first, voxel), first_of(first, near)
    first[max(one, other)] = min(one, other)
    return True


@functools.cache
def _kernel() -> Callable[..., None]:
    @kernel(parallel=False)
    def connect_voxels(index: Any, group: Any, number: Any, first: Any) -> None:
        for voxel in range(len(index)):
            number[index[voxel, 0], index[voxel, 1], index[voxel, 2]] = voxel
        # Of the 26 neighbours the 13 before it in the grid. Where one of them is there, those that touch it are
        # connected with it anyway, and need not be looked at.
        for voxel in range(len(index)):
            i, j, k = index[voxel, 0], index[voxel, 1], index[voxel, 2]
            if joined(first, group, number, voxel, i - 1, j, k):
                continue  # it touches the other twelve
            beside = joined(first, group, number, voxel, i, j - 1, k)
            below = joined(first, group, number, voxel, i, j, k - 1)
            if not joined(first, group, number, voxel, i - 1, j + 1, k):
                if not below:
                    joined(first, group, number, voxel, i - 1, j + 1, k - 1)
                joined(first, group, number, voxel, i - 1, j + 1, k + 1)
            if beside:
                continue
            joined(first, group, number, voxel, i, j - 1, k + 1)
            joined(first, group, number, voxel, i - 1, j, k + 1)
            joined(first, group, number, voxel, i - 1, j - 1, k + 1)
            if not below:
                joined(first, group, number, voxel, i, j - 1, k - 1)
                joined(first, group, number, voxel, i - 1, j, k - 1)
                joined(first, group, number, voxel, i - 1, j - 1, k - 1)
                joined(first, group, number, voxel, i - 1, j - 1, k)
        for voxel in range(len(index)):
            first[voxel] = first_of(first, voxel)
            number[index[voxel, 0], index[voxel, 1], index[voxel, 2]] = -1

    return connect_voxels


@dataclass(frozen=True, eq=False)
class Matches:
    """Voxels and phrases that they answer: M pairs, each once."""

    index: NDArray[np.int32]  # int32 [M, 3], by phrase
    phrase: NDArray[np.uint8]  # uint8 [M], number of the phrase
    score: NDArray[np.float32]  # float32 [M], see `PhraseMatches`
    probability: NDArray[np.float32]  # float32 [M] in 0..1


def all_matches(voxels: SemanticVoxels, answers: Sequence[tuple[SemanticVoxels, Sequence[PhraseMatches]]]) -> Matches:
    """What answers a query among voxels.

    `voxels`: those that count: of several images fused, or joined with earlier ones; `answers`: the voxels of each
    image on the same grid, and which of them each phrase was found in.
    """
    if len(answers) == 1 and answers[0][0] is voxels:  # as they were completed: all of them count
        phrases = answers[0][1]
        found = np.concatenate([np.zeros(0, np.int32), *(one.voxels for one in phrases)])
        return Matches(
            voxels.index[found],
            np.repeat(np.arange(len(phrases), dtype=np.uint8), [len(one.voxels) for one in phrases]),
            np.concatenate([np.zeros(0, np.float32), *(one.score for one in phrases)]),
            np.concatenate([np.zeros(0, np.float32), *(one.probability for one in phrases)]),
        )
    parts = [
        (np.ravel_multi_index(tuple(own.index[found.voxels].T), own.grid.shape), number, found)
        for own, phrases in answers
        for number, found in enumerate(phrases)
        if len(found.voxels)
    ]
    flat = np.concatenate([np.zeros(0, np.intp), *(place for place, *_ in parts)])
    phrase = np.concatenate([np.zeros(0, np.uint8), *(np.full(len(at), number, np.uint8) for at, number, _ in parts)])
    score = np.concatenate([np.zeros(0, np.float32), *(found.score for *_, found in parts)])
    probability = np.concatenate([np.zeros(0, np.float32), *(found.probability for *_, found in parts)])
    # By phrase and, of several images, by voxel; that of the image that says it best first.
    order = np.lexsort((-score, flat, phrase)) if len(answers) > 1 else np.arange(len(flat))
    order = order[voxels.state.reshape(-1)[flat[order]] >= VoxelState.SURFACE]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (flat[order[1:]] != flat[order[:-1]]) | (phrase[order[1:]] != phrase[order[:-1]])
    kept = order[first]
    index = np.stack(np.unravel_index(flat[kept], voxels.grid.shape), axis=-1).astype(np.int32)
    return Matches(index, phrase[kept], score[kept], probability[kept])
