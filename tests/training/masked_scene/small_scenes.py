"""Scenes of few voxels."""

import numpy as np


def random_places(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """So many different voxels of a grid, int16 [N, 3]."""
    flat = np.random.default_rng(seed).choice(np.prod(shape), count, replace=False)
    return np.stack(np.unravel_index(flat, shape), axis=-1).astype(np.int16)
