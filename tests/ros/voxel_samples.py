"""Voxels to send around."""

import numpy as np

from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


def some_voxels(count: int, stamp_ns: int = 0, classes: int = 1) -> SemanticVoxels:
    """`count` random occupied voxels of the default grid."""
    rng = np.random.default_rng(1)
    flat = np.sort(rng.choice(int(np.prod(DEFAULT_GRID.shape)), count, replace=False))
    index = np.stack(np.unravel_index(flat, DEFAULT_GRID.shape), axis=-1).astype(np.int32)
    state = np.full(DEFAULT_GRID.shape, VoxelState.FREE_SEEN, np.uint8)
    state[tuple(index.T)] = rng.choice([VoxelState.SURFACE, VoxelState.COMPLETED], count)
    return SemanticVoxels(
        grid=DEFAULT_GRID,
        grid_from_camera=DEFAULT_GRID_FROM_CAMERA,
        stamp_ns=stamp_ns,
        state=state,
        index=index,
        probability=rng.uniform(0.5, 1.0, count).astype(np.float32),
        label=rng.integers(0, classes, count).astype(np.uint8),
        confidence=rng.uniform(0.0, 1.0, count).astype(np.float32),
        class_names=tuple(f"class {number}" for number in range(classes)),
        class_colours=tuple((number * 40, 10, 200) for number in range(classes)),
    )
