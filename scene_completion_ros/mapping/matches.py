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
