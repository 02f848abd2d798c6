"""Scenes of few voxels."""

from typing import Any

import numpy as np

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_training.masked_scene.scenes import VoxelScene


def scene_of(index: Any, shape: tuple[int, int, int] = (8, 8, 4), **changes: Any) -> VoxelScene:
    """A scene of these voxels, occupied and not seen."""
    index = np.array(index, np.int16).reshape(-1, 3)
    features = np.tile(np.array([1, 0, 0, 0, 0], np.float32), (len(index), 1))
    grid = VoxelGrid((0.0, 0.0, 0.0), 0.2, shape)
    return VoxelScene(index, features, grid, DEFAULT_GRID_FROM_CAMERA, **changes)


def random_places(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """So many different voxels of a grid, int16 [N, 3]."""
    flat = np.random.default_rng(seed).choice(np.prod(shape), count, replace=False)
    return np.stack(np.unravel_index(flat, shape), axis=-1).astype(np.int16)
