"""PSNR and SSIM, by hand."""

import math

import numpy as np
import pytest

from scene_completion_ros.evaluation.image_similarity import border_cropped, psnr, ssim


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
