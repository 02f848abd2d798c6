"""Voxels of several cameras in one grid; `camera_fusion_kernel` is the compiled twin of the rule here.

The rule, voxel by voxel:

1. Views that do not observe the voxel have no say. Where at least one view has *seen* it (`FREE_SEEN`, `SURFACE`),
   those that only infer it have none either: what one camera completes behind an obstacle, another one may look at.
2. The probability is the mean of the calibrated probabilities of the views that have a say. (All come from one network
   with the same prejudices: multiplying their odds would count these once for each camera.)
3. The voxel is occupied where that mean reaches the threshold, and counts as seen where those with a say have seen it.
4. Views with a say in which it is occupied vote for their label, with probability times confidence; of two with as
   many votes the lower label wins. The confidence is the mean of what these views have in the winner (0, where they
   voted for another), weighted by their probabilities.

A single view stays as it is, and the order of the views changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.mapping.camera_fusion_kernel import fuse_dense
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


@dataclass(frozen=True, eq=False)
class DenseViews:
    """What N views say of every voxel, as arrays.

    Attributes:
        state: uint8 [N, V], values of `VoxelState`.
        probability: float32 [N, V], calibrated.
        label: uint8 [N, V], of occupied voxels.
        confidence: float32 [N, V] in the label.
    """

    state: NDArray[np.uint8]
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FusedVoxels:
    """The result, dense.

    Attributes:
        state: uint8 [V], values of `VoxelState`.
        probability: float32 [V]; 0 for unobserved voxels.
        label: uint8 [V]; 0 where the voxel is not occupied.
        confidence: float32 [V]; 0 where it is not occupied.
    """

    state: NDArray[np.uint8]
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def fuse_dense_reference(views: DenseViews, threshold: float) -> FusedVoxels:
    """The rule, readable.

    Args:
        views: What the views say.
        threshold: Probability from which a voxel is occupied.
    """
    state, probability = views.state, views.probability
    seen = (state == VoxelState.FREE_SEEN) | (state == VoxelState.SURFACE)
    observed = state != VoxelState.UNOBSERVED
    any_seen = seen.any(axis=0)
    say = np.where(any_seen, seen, observed)  # [N, V]
    count = say.sum(axis=0)
    mean = (np.where(say, probability, 0).sum(axis=0, dtype=np.float32) / np.maximum(count, 1)).astype(np.float32)
    voter = say & (state >= VoxelState.SURFACE)
    occupied = (mean >= np.float32(threshold)) & voter.any(axis=0)
    fused = np.select(
        [count == 0, occupied & any_seen, occupied, any_seen],
        [VoxelState.UNOBSERVED, VoxelState.SURFACE, VoxelState.COMPLETED, VoxelState.FREE_SEEN],
        VoxelState.FREE_INFERRED,
    ).astype(np.uint8)

    weight = np.where(voter, probability * views.confidence, 0)
    label, confidence = np.zeros_like(fused), np.zeros_like(mean)
    weights = np.where(voter, probability, 0).sum(axis=0)
    most = np.full(mean.shape, -1.0)
    for candidate in np.unique(views.label):  # ascending, so that the lower one stays where votes are equal
        elects = voter & (views.label == candidate)
        votes = np.where(elects, weight, 0).sum(axis=0)
        better = occupied & elects.any(axis=0) & (votes > most)
        label[better], most[better] = candidate, votes[better]
    confidence[occupied] = most[occupied] / np.maximum(weights[occupied], 1e-12)
    return FusedVoxels(fused, mean, label, confidence)


def fuse_views(
    views: Sequence[SemanticVoxels], probabilities: Sequence[NDArray[np.float32]], threshold: float
) -> SemanticVoxels:
    """Fuse what several cameras see of one grid.

    Args:
        views: Voxels of each camera on the same grid, of about the same time; at least one.
        probabilities: Calibrated probabilities of all voxels, float32 [X, Y, Z], for each view.
        threshold: Probability from which a voxel is occupied.

    Returns:
        The fused voxels, with the oldest stamp. ``grid_from_camera`` is that of the first view.

    Raises:
        GridError: The views are on different grids, or of different classes.
    """
    return fuse_views_and_probability(views, probabilities, threshold)[0]


def fuse_views_and_probability(
    views: Sequence[SemanticVoxels], probabilities: Sequence[NDArray[np.float32]], threshold: float
) -> tuple[SemanticVoxels, NDArray[np.float32]]:
    """As `fuse_views`; also the fused probability of every voxel, float32 [X, Y, Z], 0 for unobserved ones."""
    first = views[0]
    for view in views[1:]:
        if view.grid != first.grid or view.class_names != first.class_names:
            raise GridError(
                "views on different grids or of different classes cannot be fused",
                where="fuse_views",
                cure="Complete them with one bundle and one grid",
            )
    stamp_ns = min(view.stamp_ns for view in views)
    if len(views) == 1:
        return first, probabilities[0]
    dense = DenseViews(
        np.stack([view.state.reshape(-1) for view in views]),
        np.stack([probability.reshape(-1) for probability in probabilities]),
        *_labels(views),
    )
    state, probability, label, confidence = fuse_dense(
        dense.state, dense.probability, dense.label, dense.confidence, threshold
    )
    occupied = np.flatnonzero(state >= VoxelState.SURFACE)
    fused = replace(
        first,
        stamp_ns=stamp_ns,
        state=state.reshape(first.grid.shape),
        index=np.stack(np.unravel_index(occupied, first.grid.shape), axis=-1).astype(np.int32),
        probability=probability[occupied],
        label=label[occupied],
        confidence=confidence[occupied],
    )
    return fused, probability.reshape(first.grid.shape)


def _labels(views: Sequence[SemanticVoxels]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels uint8 and confidences float32 of all voxels [N, V]; 0 where a voxel is not occupied."""
    count = int(np.prod(views[0].grid.shape))
    label = np.zeros((len(views), count), dtype=np.uint8)
    confidence = np.zeros((len(views), count), dtype=np.float32)
    for number, view in enumerate(views):
        flat = np.ravel_multi_index(tuple(view.index.T), view.grid.shape)
        label[number, flat], confidence[number, flat] = view.label, view.confidence
    return label, confidence
