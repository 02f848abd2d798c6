"""Calibration against hand computation and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.occupancy import CalibrationMetric, fit_calibration, score_histogram


def small_scores(seed: int, count: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Opacities far below 1, occupied with the probability min(1, (4 a)^2)."""
    random = np.random.default_rng(seed)
    score = (random.beta(0.4, 4.0, count) * 0.35).astype(np.float32)
    return score, random.random(count) < np.minimum(1.0, (4.0 * score) ** 2)


def expected_calibration_error(probability: np.ndarray, occupied: np.ndarray) -> float:
    metric = CalibrationMetric()
    metric.update(probability, occupied)
    return float(metric.compute()["expected_calibration_error"])


def test_fit_recovers_the_probability_of_unseen_voxels() -> None:
    table = fit_calibration(score_histogram(*small_scores(0)))
    assert 8 <= len(table.alpha) <= 34
    assert np.all(np.diff(table.alpha) > 0)
    assert np.all(np.diff(table.probability) > 0)
    score, occupied = small_scores(1)
    raw, fitted = expected_calibration_error(score, occupied), expected_calibration_error(table.apply(score), occupied)
    assert fitted < 0.01 < raw
    assert brier_score_loss(occupied, table.apply(score)) < brier_score_loss(occupied, score)
    np.testing.assert_allclose(table.apply(np.linspace(0.02, 0.22, 21)), np.linspace(0.08, 0.88, 21) ** 2, atol=0.06)


def test_fit_needs_both_kinds_and_a_score_that_tells_them_apart() -> None:
    with pytest.raises(GridError, match="0 occupied"):
        fit_calibration(score_histogram(np.linspace(0, 1, 50), np.zeros(50, dtype=bool)))
    with pytest.raises(GridError, match="does not tell"):
        fit_calibration(score_histogram(np.full(50, 0.2), np.arange(50) % 2 == 0))


def test_errors_by_hand() -> None:
    metric = CalibrationMetric(bins=2)
    metric.update(np.array([0.1, 0.3]), np.array([False, True]))  # stated 0.2, observed 0.5
    metric.update(np.array([0.6, 1.0]), np.array([True, True]))  # stated 0.8, observed 1.0
    errors = metric.compute()
    assert errors["expected_calibration_error"] == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)
    assert errors["brier"] == pytest.approx((0.01 + 0.49 + 0.16 + 0.0) / 4)
    low, high = errors["reliability"]
    assert low == pytest.approx({"voxels": 2, "stated": 0.2, "observed": 0.5})
    assert high == pytest.approx({"voxels": 2, "stated": 0.8, "observed": 1.0})
