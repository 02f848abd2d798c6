"""The voxels that answer a query, of all images of one moment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState


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
    parts = [
        (found.score, found.probability, np.ravel_multi_index(tuple(own.index[found.voxels].T), own.grid.shape), number)
        for own, phrases in answers
        for number, found in enumerate(phrases)
    ]
    kinds = (np.float32, np.float32, np.intp)
    score, probability, flat = (
        np.concatenate([np.zeros(0, kind), *(part[column] for part in parts)]) for column, kind in enumerate(kinds)
    )
    phrase = np.repeat([number for *_, number in parts], [len(at) for *_, at, _ in parts]).astype(np.uint8)
    # By phrase and, of several images, by voxel; that of the image that says it best first.
    order = np.lexsort((-score, flat, phrase)) if len(answers) > 1 else np.arange(len(flat))
    order = order[voxels.state.reshape(-1)[flat[order]] >= VoxelState.SURFACE]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (flat[order[1:]] != flat[order[:-1]]) | (phrase[order[1:]] != phrase[order[:-1]])
    kept = order[first]
    index = np.stack(np.unravel_index(flat[kept], voxels.grid.shape), axis=-1).astype(np.int32)
    return Matches(index, phrase[kept], score[kept], probability[kept])
