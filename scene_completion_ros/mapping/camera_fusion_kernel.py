"""The rule of ``camera_fusion``, compiled and run in parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels.semantic_voxels import VoxelState

UNOBSERVED, FREE_SEEN = np.uint8(VoxelState.UNOBSERVED), np.uint8(VoxelState.FREE_SEEN)
FREE_INFERRED, SURFACE = np.uint8(VoxelState.FREE_INFERRED), np.uint8(VoxelState.SURFACE)
COMPLETED = np.uint8(VoxelState.COMPLETED)
ZERO = np.float32(0.0)


def fuse_dense(
    state: NDArray[np.uint8],
    probability: NDArray[np.float32],
    label: NDArray[np.uint8],
    confidence: NDArray[np.float32],
    threshold: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """State, probability, label and confidence [V] of fused voxels; arguments as in `camera_fusion.DenseViews`."""
    count = state.shape[1]
    fused = np.empty(count, dtype=np.uint8), np.empty(count, dtype=np.float32)
    labelled = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=np.float32)
    _kernel()(state, probability, label, confidence, np.float32(threshold), *fused, *labelled)
    return *fused, *labelled


@inlined
def saw(state: Any) -> Any:
    """Whether a state says that the voxel was seen."""
    return state in (FREE_SEEN, SURFACE)


@functools.cache
def _kernel() -> Callable[..., None]:
    @kernel()
    def fuse(
        state: Any,
        probability: Any,
        label: Any,
        confidence: Any,
        threshold: Any,
        fused_state: Any,
        fused_probability: Any,
        fused_label: Any,
        fused_confidence: Any,
    ) -> None:
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
            if voters == 0 or mean < threshold:
                fused_state[voxel] = FREE_SEEN if any_seen else FREE_INFERRED
                continue
            # Whoever has a say and finds it occupied votes.
            voting = SURFACE if any_seen else COMPLETED
            fused_state[voxel] = voting
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
            fused_label[voxel] = best
            fused_confidence[voxel] = most / max(weights, 1e-12)

    return fuse
