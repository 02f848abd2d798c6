"""Masks hide whole patches: so many of them, the same ones for the same seed, and nothing less at coarser levels."""

import numpy as np
import pytest

from scene_completion_training.masked_scene.views import masked_voxels
from tests.training.masked_scene.small_scenes import random_places

SHAPE = (64, 64, 32)


def patches_of(index: np.ndarray, edge: int = 8) -> set[tuple[int, ...]]:
    return set(map(tuple, (index // edge).tolist()))


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.8, 1.0])
def test_the_share_of_hidden_patches_is_the_ratio(ratio: float) -> None:
    index = random_places(3000, SHAPE)
    masked = masked_voxels(index, 8, ratio, np.random.default_rng(0))
    hidden, shown = patches_of(index[masked]), patches_of(index[~masked])
    assert not hidden & shown, "a patch is hidden as a whole"
    assert abs(len(hidden) - ratio * len(hidden | shown)) <= 1.0


def test_a_hidden_patch_leaves_no_voxel_at_any_level() -> None:
    """With an edge of 8 on four levels; patches of 4 leave coarse voxels that hold something visible."""
    index = random_places(4000, SHAPE)
    left = {}
    for edge in (8, 4):
        masked = masked_voxels(index, edge, 0.4, np.random.default_rng(0))
        left[edge] = [len(patches_of(index[masked], 2**n) & patches_of(index[~masked], 2**n)) for n in range(4)]
    assert left[8] == [0, 0, 0, 0] and left[4][:3] == [0, 0, 0] and left[4][3] > 0


def test_nothing_and_one_voxel_can_be_hidden() -> None:
    generator = np.random.default_rng(0)
    assert masked_voxels(np.zeros((0, 3), np.int16), 8, 0.4, generator).shape == (0,)
    assert masked_voxels(np.zeros((1, 3), np.int16), 8, 1.0, generator).tolist() == [True]
