from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.calibration import Calibration


def test_identity_returns_a_copy() -> None:
    alpha = np.linspace(0.0, 1.0, 11, dtype=np.float32)
    probability = Calibration().apply(alpha)
    np.testing.assert_array_equal(probability, alpha)
    assert not np.shares_memory(probability, alpha)


def test_piecewise_linear_is_constant_outside_its_knots() -> None:
    calibration = Calibration("piecewise_linear", (0.1, 0.2, 0.6), (0.0, 0.5, 0.9))
    probability = calibration.apply(np.array([[0.0, 0.1, 0.15], [0.4, 0.6, 1.0]], dtype=np.float32))
    np.testing.assert_allclose(probability, [[0.0, 0.0, 0.25], [0.7, 0.9, 0.9]], atol=1e-6)
    assert probability.dtype == np.float32


@pytest.mark.parametrize(
    ("alpha", "probability", "message"),
    [
        ((0.1, 0.1), (0.2, 0.3), "alpha: knots do not increase"),
        ((0.1, 0.2), (0.3, 0.2), "probability: values decrease"),
        ((0.1, 1.2), (0.2, 0.3), "alpha: a value lies outside"),
        ((0.1, 0.2), (0.2, float("nan")), "probability: a value lies outside"),
        ((0.1,), (0.2,), "at least 2"),
        ((0.1, 0.2, 0.3), (0.2, 0.3), "3 alpha knots and 2"),
    ],
)
def test_bad_knots_are_refused(alpha: tuple[float, ...], probability: tuple[float, ...], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Calibration("piecewise_linear", alpha, probability)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(BundleError, match="platt"):
        Calibration("platt")  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.4499, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration("piecewise_linear", (0.01, 0.1, 0.2, 0.7), (0.2, 0.5, 0.5, 0.9)),  # a plateau at the threshold
        Calibration("piecewise_linear", (0.0, 1 / 3), (0.3, 0.3)),
    ],
)
def test_a_threshold_of_probability_is_one_of_alpha(calibration: Calibration, threshold: float) -> None:
    first = calibration.occupied_from(threshold)
    assert first.dtype == np.float32
    near = [first * np.float32(1.0 + 1e-7 * i) for i in range(-3, 4)] if np.isfinite(first) else []
    alpha = np.clip(np.concatenate([np.linspace(0.0, 1.0, 1001), near]), 0.0, 1.0).astype(np.float32)
    np.testing.assert_array_equal(alpha >= first, calibration.apply(alpha) >= np.float32(threshold))
