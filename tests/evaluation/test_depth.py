"""Depth errors against hand computation and an independent implementation."""

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_error

from scene_completion_ros.errors import ImageError
from scene_completion_ros.evaluation.depth import depth_errors, garg_crop, resize_depth


def test_two_pixels_by_hand() -> None:
    errors = depth_errors(np.array([[12.0, 8.0]]), np.array([[10.0, 16.0]]), crop=False)
    assert errors.abs_rel == pytest.approx((0.2 + 0.5) / 2)
    assert errors.sq_rel == pytest.approx((4 / 10 + 64 / 16) / 2)
    assert errors.rmse == pytest.approx(math.sqrt((4 + 64) / 2))
    assert errors.rmse_log == pytest.approx(math.sqrt((math.log(1.2) ** 2 + math.log(2) ** 2) / 2))
    assert (errors.a1, errors.a2, errors.a3) == (0.5, 0.5, 0.5)  # ratios 1.2 and 2.0; 1.25^3 = 1.95
    assert errors.abs_rel_scaled == pytest.approx((0.56 + 0.35) / 2)  # medians 13 and 10: 15.6 and 10.4


def test_against_scikit_learn() -> None:
    random, shape = np.random.default_rng(0), (40, 130)
    truth = random.uniform(1.0, 100.0, shape).astype(np.float32)
    truth[random.random(shape) < 0.7] = 0.0
    predicted = random.uniform(0.5, 120.0, shape).astype(np.float32)
    errors = depth_errors(predicted, truth)
    mask = garg_crop(*truth.shape) & (truth > 0) & (truth < 80)
    true, clamped = truth[mask], np.minimum(predicted[mask], 80.0)
    assert errors.abs_rel == pytest.approx(mean_absolute_percentage_error(true, clamped), rel=1e-5)
    assert errors.rmse == pytest.approx(math.sqrt(mean_squared_error(true, clamped)), rel=1e-5)
    assert errors.rmse_log == pytest.approx(math.sqrt(mean_squared_error(np.log(true), np.log(clamped))), rel=1e-5)


def test_garg_crop_of_a_kitti_image() -> None:
    mask = garg_crop(375, 1242)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (153, 371, 44, 1197)


def test_prediction_is_resized_to_the_ground_truth() -> None:
    small = np.array([[1.0, 3.0]])
    np.testing.assert_allclose(resize_depth(small, 1, 4), [[1.0, 1.5, 2.5, 3.0]])  # centres at 1/4, 3/4


def test_measurements_beyond_the_cap_do_not_count_and_predictions_that_are_not_finite_are_refused() -> None:
    assert depth_errors(np.ones((10, 10)), np.full((10, 10), 80.5)) is None
    with pytest.raises(ImageError, match="1 predicted depths"):
        depth_errors(np.array([[np.nan, 1.0]]), np.ones((1, 2)), crop=False)
