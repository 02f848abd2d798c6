"""Prior grid and mean depth against hand computation and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.baselines import MeanDepth, PriorGrid, gaussian_smoothed


def test_prior_is_the_mean_over_known_voxels() -> None:
    prior = PriorGrid((2, 1, 1))
    for occupied, known in ((True, True), (False, True), (True, False)):
        prior.update(np.array([[[occupied]], [[True]]]), np.array([[[known]], [[False]]]))
    np.testing.assert_array_equal(prior.compute().ravel(), [0.5, 0.0])


def test_a_prior_counts_what_another_one_counted() -> None:
    one, other = PriorGrid((2, 1, 1)), PriorGrid((2, 1, 1))
    known = np.full((2, 1, 1), True)
    one.update(known, known)
    other.update(~known, known)
    one.add(other)
    np.testing.assert_array_equal(one.compute().ravel(), [0.5, 0.5])


def test_smoothing_against_scipy() -> None:
    volume = np.random.default_rng(0).random((30, 21, 12)).astype(np.float32)
    sigma = (3.0, 1.5, 0.5)
    expected = ndimage.gaussian_filter(volume.astype(np.float64), sigma)
    np.testing.assert_allclose(gaussian_smoothed(volume, sigma), expected, atol=1e-5)
    np.testing.assert_array_equal(gaussian_smoothed(volume, (0.0, 0.0, 0.0)), volume)


def test_unknown_voxels_take_after_their_known_neighbours() -> None:
    prior = PriorGrid((9, 3, 3))
    known = np.ones(prior.known.shape, dtype=bool)
    known[4] = False
    prior.update(np.arange(9)[:, None, None] * np.ones((1, 3, 3)) > 4, known)
    smoothed = prior.compute((1.0, 0.0, 0.0))
    assert smoothed[4, 1, 1] == pytest.approx(0.5, abs=1e-6)
    assert np.all(np.diff(smoothed[:, 1, 1]) >= 0)


def test_prior_refuses_other_shapes() -> None:
    with pytest.raises(GridError, match="prior grid"):
        PriorGrid((4, 4, 2)).update(np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool))


def test_mean_depth_brings_sizes_together_and_fills_holes() -> None:
    mean = MeanDepth(height=2, width=4)
    large = np.zeros((4, 8), dtype=np.float32)
    large[0, 0], large[1, 1], large[3, 7] = 2.0, 4.0, 10.0  # two in the first cell, one in the last
    small = np.zeros((2, 4), dtype=np.float32)
    small[0, 0] = 6.0
    mean.update(large)
    mean.update(small)
    np.testing.assert_allclose(mean.compute(), [[4, 4, 10, 10], [4, 4, 10, 10]])


def test_mean_depth_holes_against_scipy() -> None:
    random = np.random.default_rng(2)
    depth = np.where(random.random((20, 30)) < 0.08, random.uniform(2, 60, (20, 30)), 0.0)
    mean = MeanDepth(20, 30)
    mean.update(depth)
    filled = mean.compute()
    distance = ndimage.distance_transform_edt(depth == 0)
    np.testing.assert_allclose(filled[depth > 0], depth[depth > 0], rtol=1e-6)
    # Where several cells are equally near, either may be taken: compare distances instead of values.
    for row, column in np.argwhere(depth == 0):
        sources = np.argwhere(np.isclose(depth, filled[row, column], rtol=1e-6) & (depth > 0))
        assert np.min(np.hypot(*(sources - (row, column)).T)) == pytest.approx(distance[row, column])


def test_mean_depth_of_nothing_is_refused() -> None:
    with pytest.raises(GridError, match="no depth"):
        MeanDepth(2, 2).compute()
