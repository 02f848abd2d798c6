"""The voxels that answer a query, of all images of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.phrase_query import PhraseMatches
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


@dataclass(frozen=True, eq=False)
class Matches:
    """M voxels, each once, with the phrase that it answers best.

    Attributes:
        index: int32 [M, 3], in the order of the grid's memory.
        phrase: uint8 [M], number of the phrase.
        score: float32 [M], cosine.
        probability: float32 [M] in 0..1, of the phrase against the background.
    """

    index: NDArray[np.int32]
    phrase: NDArray[np.uint8]
    score: NDArray[np.float32]
    probability: NDArray[np.float32]


def best_matches(voxels: SemanticVoxels, answers: Iterable[tuple[SemanticVoxels, Sequence[PhraseMatches]]]) -> Matches:
    """What answers a query among voxels.

    Args:
        voxels: Those that count: of several images fused, or joined with earlier ones.
        answers: The voxels of each image on the same grid, and which of them each phrase was found in.
    """
    parts = [_best_of(own, phrases) for own, phrases in answers]
    flat, phrase, score, probability = (np.concatenate(column) for column in zip(_NOTHING, *parts, strict=True))
    # By voxel; the best first, of equal ones the first phrase.
    order = np.lexsort((phrase, -score, flat)) if len(parts) > 1 else np.arange(len(flat))
    order = order[voxels.state.reshape(-1)[flat[order]] >= VoxelState.SURFACE]
    first = np.ones(len(order), dtype=bool)
    first[1:] = flat[order[1:]] != flat[order[:-1]]
    kept = order[first]
    index = np.stack(np.unravel_index(flat[kept], voxels.grid.shape), axis=-1).astype(np.int32)
    return Matches(index, phrase[kept], score[kept], probability[kept])


_Columns: TypeAlias = tuple[NDArray[np.intp], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]
_NOTHING: _Columns = (np.zeros(0, np.intp), np.zeros(0, np.uint8), np.zeros(0, np.float32), np.zeros(0, np.float32))


def _best_of(own: SemanticVoxels, phrases: Sequence[PhraseMatches]) -> _Columns:
    """Flat places of one image's voxels that answer, in order, with phrase, score and probability."""
    best = np.full(len(own), -np.inf, dtype=np.float32)
    number, probability = np.zeros(len(own), np.uint8), np.zeros(len(own), np.float32)
    for phrase, found in enumerate(phrases):
        better = found.score > best[found.voxels]
        places = found.voxels[better]
        best[places], number[places], probability[places] = found.score[better], phrase, found.probability[better]
    kept = np.flatnonzero(best > -np.inf)
    flat = np.ravel_multi_index(tuple(own.index[kept].T), own.grid.shape)
    return flat, number[kept], best[kept], probability[kept]
