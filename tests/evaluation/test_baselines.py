"""Prior grid and mean depth against hand computation and SciPy."""

import numpy as np
import pytest

from scene_completion_training.evaluation.controls import MeanDepth, PriorGrid


def test_prior_is_the_mean_over_known_voxels() -> None:
    prior = PriorGrid((2, 1, 1))
    for occupied, known in ((True, True), (False, True), (True, False)):
        prior.update(np.array([[[occupied]], [[True]]]), np.array([[[known]], [[False]]]))
    np.testing.assert_array_equal(prior.compute().ravel(), [0.5, 0.0])


def test_unknown_voxels_take_after_their_known_neighbours() -> None:
    prior = PriorGrid((9, 3, 3))
    known = np.ones(prior.known.shape, dtype=bool)
    known[4] = False
    prior.update(np.arange(9)[:, None, None] * np.ones((1, 3, 3)) > 4, known)
    smoothed = prior.compute((1.0, 0.0, 0.0))
    assert smoothed[4, 1, 1] == pytest.approx(0.5, abs=1e-6)
    assert np.all(np.diff(smoothed[:, 1, 1]) >= 0)


def test_mean_depth_brings_sizes_together_and_fills_holes() -> None:
    mean = MeanDepth(height=2, width=4)
    large = np.zeros((4, 8), dtype=np.float32)
    large[0, 0], large[1, 1], large[3, 7] = 2.0, 4.0, 10.0  # two in the first cell, one in the last
    small = np.zeros((2, 4), dtype=np.float32)
    small[0, 0] = 6.0
    mean.update(large)
    mean.update(small)
    np.testing.assert_allclose(mean.compute(), [[4, 4, 10, 10], [4, 4, 10, 10]])
