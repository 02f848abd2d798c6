"""The photometric loss against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scene_completion_training.losses.photometric import photometric_error, photometric_loss


def test_photometric_is_zero_for_equal_images_and_takes_the_best_source() -> None:
    torch.manual_seed(0)
    target = torch.rand(3, 3, 8, 8)
    noise = torch.rand(3, 3, 8, 8)
    rendered = torch.stack([noise, target], dim=1)
    valid = torch.zeros(3, 8, 8, dtype=torch.bool)
    assert photometric_loss(target, rendered, valid).item() == pytest.approx(0.0, abs=1e-6)
    assert photometric_loss(target, rendered[:, :1], valid).item() > 0.1


def test_photometric_weights_l1_with_fifteen_percent() -> None:
    """Flat images of 0.2 and 0.6: away from the border SSIM = (2ab + c1)/(a² + b² + c1), since variances vanish."""
    target = torch.full((1, 3, 8, 8), 0.2, dtype=torch.float64)
    rendered = torch.full((1, 1, 3, 8, 8), 0.6, dtype=torch.float64)
    kernel_sum = 4 * 0.0947 + 4 * 0.1183 + 0.1478
    a, b = 0.2 * kernel_sum, 0.6 * kernel_sum
    c1, c2 = 1e-4, 9e-4
    variance_a, variance_b = kernel_sum * 0.04 - a * a, kernel_sum * 0.36 - b * b
    covariance = kernel_sum * 0.12 - a * b
    similarity = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance_a + variance_b + c2))
    expected = 0.85 * (1 - similarity) / 2 + 0.15 * 0.4
    assert photometric_error(target, rendered)[0, 0, 4, 4].item() == pytest.approx(expected, abs=1e-5)


def test_invalid_rays_do_not_count() -> None:
    target, rendered = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 3, 8, 8)
    assert photometric_loss(target, rendered, torch.ones(1, 8, 8, dtype=torch.bool)).item() == 0.0
