"""Voxels written out by hand."""

from __future__ import annotations

import numpy as np

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

UNOBSERVED, FREE, INFERRED, SURFACE, COMPLETED = VoxelState
NAMES = ("road", "car", "wall")
COLOURS = ((128, 64, 128), (0, 0, 142), (70, 70, 70))


def voxels_of(
    state: np.ndarray,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    size: float = 1.0,
    *,
    labels: dict[tuple[int, int, int], int] | None = None,
    probabilities: dict[tuple[int, int, int], float] | None = None,
    stamp_ns: int = 0,
) -> SemanticVoxels:
    """Voxels of some states; those occupied are of class 1 with probability 0.75 unless told otherwise."""
    state = np.asarray(state, dtype=np.uint8)
    index = np.argwhere(state >= SURFACE).astype(np.int32)
    places = [tuple(place) for place in index.tolist()]
    return SemanticVoxels(
        grid=VoxelGrid(origin, size, state.shape),
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        stamp_ns=stamp_ns,
        state=state,
        index=index,
        probability=np.array([(probabilities or {}).get(place, 0.75) for place in places], dtype=np.float32),
        label=np.array([(labels or {}).get(place, 1) for place in places], dtype=np.uint8),
        confidence=np.ones(len(index), dtype=np.float32),
        class_names=NAMES,
        class_colours=COLOURS,
    )
