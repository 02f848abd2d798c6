"""Voxels written out by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

UNOBSERVED, FREE, INFERRED, SURFACE, COMPLETED = VoxelState
NAMES = ("road", "car", "wall")
COLOURS = ((128, 64, 128), (0, 0, 142), (70, 70, 70))


Values = Mapping[tuple[int, ...], float] | NDArray[Any] | None
"""A value for some voxels, by their index, or a dense array of all."""


def voxels_of(
    state: np.ndarray,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    size: float = 1.0,
    *,
    labels: Values = None,
    probabilities: Values = None,
    confidence: float = 1.0,
    stamp_ns: int = 0,
) -> SemanticVoxels:
    """Voxels of some states; those occupied are of class 1 with probability 0.75 unless told otherwise."""
    state = np.asarray(state, dtype=np.uint8)
    index = np.argwhere(state >= SURFACE).astype(np.int32)

    def taken(values: Values, otherwise: float) -> NDArray[Any]:
        if isinstance(values, np.ndarray):
            return np.asarray(values[tuple(index.T)])
        return np.array([(values or {}).get(tuple(place), otherwise) for place in index.tolist()])

    return SemanticVoxels(
        grid=VoxelGrid(origin, size, state.shape),
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        stamp_ns=stamp_ns,
        state=state,
        index=index,
        probability=taken(probabilities, 0.75).astype(np.float32),
        label=taken(labels, 1).astype(np.uint8),
        confidence=np.full(len(index), confidence, dtype=np.float32),
        class_names=NAMES,
        class_colours=COLOURS,
    )


def bytes_to_state_and_label(dense: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """State and label of every voxel, uint8 as `dense`; the label of what is not occupied is 0."""
    above = np.maximum(dense, VoxelState.SURFACE) - np.uint8(VoxelState.SURFACE)
    occupied = dense >= VoxelState.SURFACE
    return np.where(occupied, VoxelState.SURFACE + above % 2, dense).astype(np.uint8), above // 2
