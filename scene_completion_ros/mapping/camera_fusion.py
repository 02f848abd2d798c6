"""Voxels of several cameras in one grid, and those of them that answer a query.

The rule, voxel by voxel:

1. Views that do not observe the voxel have no say. Where at least one view has *seen* it (`FREE_SEEN`, `SURFACE`),
   those that only infer it have none either. What one camera completes behind an obstacle, another one may look at.
2. The probability is the mean of the calibrated probabilities of the views that have a say. (All come from one network
   with the same prejudices: multiplying their odds would count these once for each camera.)
3. The voxel is occupied where that mean reaches the threshold of its label, and counts as seen where those with a say
   have seen it.
4. Views with a say in which it is occupied vote for their label, with probability times confidence. Of two with as many
   votes the lower label wins. The confidence is the mean of what these views have in the winner (0, where they voted
   for another), weighted by their probabilities.

A single view stays as it is, and the order of the views changes nothing but rounding.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.evaluation.semantic_classes import GROUND_CLASSES
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.occupancy import Thresholds
from scene_completion_ros.voxels.occupancy_kernel import axis_indices, occupied_voxels
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState

UNOBSERVED, FREE_SEEN, FREE_INFERRED, SURFACE, COMPLETED = (np.uint8(state) for state in VoxelState)
ZERO = np.float32(0.0)
UNLABELLED = "unlabelled"


def thresholds_of(thresholds: Thresholds, class_names: Sequence[str]) -> NDArray[np.float32]:
    """Those of labels, float32 [256], by the names of the first ones.

    What is named neither as a ground nor as unlabelled is an obstacle, as is the asphalt of a vocabulary.
    """
    of_labels = np.full(256, thresholds.obstacle, np.float32)
    low = [name in (*GROUND_CLASSES, UNLABELLED) for name in class_names]
    of_labels[: len(class_names)][low] = thresholds.ground
    return of_labels


class DenseVoxels(NamedTuple):
    """The predictions for every voxel: [N, V] by N views, [V] when they are fused."""

    state: NDArray[np.uint8]  # values of `VoxelState`
    probability: NDArray[np.float32]  # calibrated; 0 for unobserved voxels
    label: NDArray[np.uint8]  # 0 where the voxel is not occupied
    confidence: NDArray[np.float32]  # in the label; 0 where the voxel is not occupied


def fuse_views(
    views: Sequence[SemanticVoxels], probabilities: Sequence[NDArray[np.float32]], thresholds: Thresholds
) -> tuple[SemanticVoxels, NDArray[np.float32]]:
    """Fuse what several cameras see of one grid.

    Returns the fused voxels, with the oldest stamp and the ``grid_from_camera`` of the first view. Then the fused
    probability of every voxel, float32 [X, Y, Z], 0 for unobserved ones. `views`: voxels of each camera on the same
    grid, of about the same time; at least one; `probabilities`: calibrated probabilities of all voxels, float32 [X, Y,
    Z], for each view.
    """
    first = views[0]
    assert all(view.grid == first.grid and view.class_names == first.class_names for view in views)
    if len(views) == 1:
        return first, probabilities[0]
    # Labels and confidences of all voxels [N, V]; 0 where a voxel is not occupied.
    labels = np.zeros((len(views), first.state.size), np.uint8), np.zeros((len(views), first.state.size), np.float32)
    for number, view in enumerate(views):
        flat = np.ravel_multi_index(tuple(view.index.T), view.grid.shape)
        labels[0][number, flat], labels[1][number, flat] = view.label, view.confidence
    states = np.stack([view.state.reshape(-1) for view in views])
    stacked = np.stack([probability.reshape(-1) for probability in probabilities])
    state, probability, label, confidence = fuse_dense(
        DenseVoxels(states, stacked, *labels), thresholds_of(thresholds, first.class_names)
    )
    occupied, of_occupied = occupied_voxels(state, probability)
    fused = replace(
        first,
        stamp_ns=min(view.stamp_ns for view in views),
        state=state.reshape(first.grid.shape),
        index=axis_indices(occupied, first.grid.shape),
        probability=of_occupied,
        label=label[occupied],
        confidence=confidence[occupied],
    )
    return fused, probability.reshape(first.grid.shape)


def fuse_dense(views: DenseVoxels, thresholds: NDArray[np.float32]) -> DenseVoxels:
    """The rule, compiled. `thresholds`: probability from which a voxel of each label is occupied, float32 [256]."""
    count = views.state.shape[1]
    fused = np.empty(count, dtype=np.uint8), np.empty(count, dtype=np.float32)
    labelled = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.float32)
    _kernel()(*views, thresholds, *fused, *labelled)
    return DenseVoxels(*fused, *labelled)


@inlined
def saw(state: Any) -> Any:
    """Whether a state is one of a voxel that was seen."""
    return state in (FREE_SEEN, SURFACE)


@functools.cache
def _kernel() -> Callable[..., None]:
    @kernel()
    def fuse(  # type: ignore[no-untyped-def] # numba finds the types
        state, probability, label, confidence, thresholds, fused_state, fused_probability, fused_label, fused_confidence
    ):
        views, count = state.shape
        for voxel in prange(count):
            any_seen = False
            for view in range(views):
                any_seen = any_seen or saw(state[view, voxel])
            with_say, voters, total = 0, 0, ZERO
            for view in range(views):
                at = state[view, voxel]
                if at == UNOBSERVED or (any_seen and not saw(at)):
                    continue
                with_say += 1
                total += probability[view, voxel]
                if at >= SURFACE:
                    voters += 1
            mean = total / np.float32(max(with_say, 1))
            fused_probability[voxel] = mean
            if with_say == 0:
                fused_state[voxel] = UNOBSERVED
                continue
            if voters == 0:
                fused_state[voxel] = FREE_SEEN if any_seen else FREE_INFERRED
                continue
            # Cameras that have a say and find it occupied vote.
            voting = SURFACE if any_seen else COMPLETED
            best, most, weights = 0, -1.0, 0.0
            for view in range(views):
                if state[view, voxel] != voting:
                    continue
                weights += probability[view, voxel]
                candidate, votes = label[view, voxel], 0.0
                for other in range(views):
                    if state[other, voxel] == voting and label[other, voxel] == candidate:
                        votes += probability[other, voxel] * confidence[other, voxel]
                if votes > most or (votes == most and candidate < best):
                    best, most = candidate, votes
            if mean < thresholds[best]:
                fused_state[voxel] = FREE_SEEN if any_seen else FREE_INFERRED
                continue
            fused_state[voxel], fused_label[voxel] = voting, best
            fused_confidence[voxel] = most / max(weights, 1e-12)

    return fuse


@dataclass(frozen=True, eq=False)
class Matches:
    """Voxels and phrases that they answer: M pairs, each once."""

    index: NDArray[np.int32]  # int32 [M, 3], by phrase
    phrase: NDArray[np.uint8]  # uint8 [M], number of the phrase
    score: NDArray[np.float32]  # float32 [M], see `PhraseMatches`
    probability: NDArray[np.float32]  # float32 [M] in 0..1


def all_matches(voxels: SemanticVoxels, answers: Sequence[tuple[SemanticVoxels, Sequence[PhraseMatches]]]) -> Matches:
    """What answers a query among voxels.

    `voxels`: those that count: of several images fused; `answers`: the voxels of each image on the same grid, and which
    of them each phrase was found in.
    """
    parts = [
        (found.score, found.probability, own.index.take(found.voxels, axis=0), number)
        for own, phrases in answers
        for number, found in enumerate(phrases)
    ]
    nothing = np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 3), np.int32)
    score, probability, index = (
        np.concatenate([none, *(part[column] for part in parts)]) for column, none in enumerate(nothing)
    )
    flat = np.ravel_multi_index(tuple(index.T), voxels.grid.shape)
    phrase = np.repeat([number for *_, number in parts], [len(at) for *_, at, _ in parts]).astype(np.uint8)
    # By phrase and, of several images, by voxel; the best match first.
    order = np.lexsort((-score, flat, phrase)) if len(answers) > 1 else np.arange(len(flat))
    order = order[voxels.state.reshape(-1)[flat[order]] >= VoxelState.SURFACE]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (flat[order[1:]] != flat[order[:-1]]) | (phrase[order[1:]] != phrase[order[:-1]])
    kept = order[first]
    return Matches(index.take(kept, axis=0), phrase[kept], score[kept], probability[kept])
