"""Depth errors against hand computation and an independent implementation."""

import math

import numpy as np
import pytest

from scene_completion_ros.evaluation.depth import depth_errors, garg_crop, resize_depth
from scene_completion_training.evaluation.novel_views import border_cropped, psnr, ssim


def test_two_pixels_by_hand() -> None:
    errors = depth_errors(np.array([[12.0, 8.0]]), np.array([[10.0, 16.0]]), crop=False)
    assert errors.abs_rel == pytest.approx((0.2 + 0.5) / 2)
    assert errors.sq_rel == pytest.approx((4 / 10 + 64 / 16) / 2)
    assert errors.rmse == pytest.approx(math.sqrt((4 + 64) / 2))
    assert errors.rmse_log == pytest.approx(math.sqrt((math.log(1.2) ** 2 + math.log(2) ** 2) / 2))
    assert (errors.a1, errors.a2, errors.a3) == (0.5, 0.5, 0.5)  # ratios 1.2 and 2.0; 1.25^3 = 1.95
    assert errors.abs_rel_scaled == pytest.approx((0.56 + 0.35) / 2)  # medians 13 and 10: 15.6 and 10.4


def test_garg_crop_of_a_kitti_image() -> None:
    mask = garg_crop(375, 1242)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (153, 371, 44, 1197)


def test_prediction_is_resized_to_the_ground_truth() -> None:
    small = np.array([[1.0, 3.0]])
    np.testing.assert_allclose(resize_depth(small, 1, 4), [[1.0, 1.5, 2.5, 3.0]])  # centres at 1/4, 3/4


def test_measurements_beyond_the_cap_do_not_count() -> None:
    assert depth_errors(np.ones((10, 10)), np.full((10, 10), 80.5)) is None


def test_the_crop_is_that_of_behind_the_scenes() -> None:
    """0.05 x 192 = 9.6 and 0.95 x 192 = 182.4: rows 10 to 181; 0.05 x 640 = 32: columns 32 to 607."""
    image = np.zeros((192, 640, 3), np.float32)
    image[10:182, 32:608] = 1.0
    assert border_cropped(image).shape == (172, 576, 3) and border_cropped(image).all()


def test_psnr() -> None:
    """Half of the pixels are off by 0.2: the mean squared error is 0.02."""
    true = np.full((10, 8, 3), 0.5, np.float32)
    rendered = true.copy()
    rendered[:5] += 0.2
    assert psnr(rendered, true) == pytest.approx(-10.0 * math.log10(0.02), abs=1e-4)
    assert psnr(true, true) == math.inf


def test_ssim_of_one_window() -> None:
    """A picture of one window: ones in three of seven columns, and the same less contrast."""
    true = np.zeros((7, 7, 1), np.float32)
    true[:, :3] = 1.0
    rendered = 0.5 * true
    mean, variance = 21 / 49, 49 / 48 * (21 / 49 - (21 / 49) ** 2)
    expected = (2 * mean * mean / 2 + 1e-4) * (2 * variance / 2 + 9e-4)
    expected /= (mean**2 + mean**2 / 4 + 1e-4) * (variance + variance / 4 + 9e-4)
    assert ssim(rendered[..., 0], true[..., 0]) == pytest.approx(expected, abs=1e-7)
