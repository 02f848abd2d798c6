"""Occupancy scores and calibration against hand computation and scikit-learn."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, jaccard_score, precision_score, recall_score

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.metric import VoxelAnswer
from scene_completion_ros.evaluation.occupancy import (
    OccupancyMetric,
    OccupancyTally,
    calibration_errors,
    calibration_sums,
    crops_within,
    fit_calibration,
    score_histogram,
)
from scene_completion_ros.evaluation.truth import ALL, VISIBLE, FrameTruth, VoxelTruth
from scene_completion_ros.geometry import RigidTransform, VoxelGrid


def test_four_voxels_by_hand() -> None:
    metric, score = OccupancyMetric(), np.array([0.9, 0.6, 0.4, 0.1])
    metric.update(score, np.array([True, False, True, False]), score >= 0.5)
    scores = metric.compute()
    assert 0.39 < scores.pop("best_threshold") <= 0.4
    expected = {"voxels": 4, "occupied_fraction": 0.5, "iou": 1 / 3, "precision": 0.5, "recall": 0.5}
    best = {"best_iou": 2 / 3, "average_precision": (1 + 2 / 3) / 2}  # the first three
    assert scores == pytest.approx(expected | best)


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    occupied = random.random(5000) < 0.1
    score = (10.0 ** (random.normal(-2.5, 0.7, 5000) + 0.6 * occupied)).clip(0, 1).astype(np.float32)
    metric, predicted = OccupancyMetric(), score >= 0.01
    metric.update(score, occupied, predicted)
    scores = metric.compute()
    rounded = score.astype(np.float16).astype(np.float64)
    assert scores["average_precision"] == pytest.approx(average_precision_score(occupied, rounded), abs=1e-12)
    assert scores["average_precision"] == pytest.approx(average_precision_score(occupied, score), abs=1e-3)
    assert scores["iou"] == pytest.approx(jaccard_score(occupied, predicted))
    assert scores["precision"] == pytest.approx(precision_score(occupied, predicted))
    assert scores["recall"] == pytest.approx(recall_score(occupied, predicted))
    selected = [rounded >= threshold for threshold in np.unique(rounded)]
    assert scores["best_iou"] == pytest.approx(
        max((mask & occupied).sum() / (mask | occupied).sum() for mask in selected)
    )
    assert jaccard_score(occupied, score >= scores["best_threshold"]) == pytest.approx(scores["best_iou"])


def test_figures_without_occupied_voxels_are_undefined() -> None:
    metric = OccupancyMetric()
    metric.update(np.array([0.2]), np.array([False]), np.array([False]))
    scores = metric.compute()
    assert all(math.isnan(scores[name]) for name in ("iou", "recall", "best_iou", "average_precision"))


def test_large_and_negative_zero_scores_are_counted_and_bad_ones_refused() -> None:
    histogram = score_histogram(np.array([-0.0, 1e30, np.inf]), np.array([True, True, True]))
    assert histogram[1, 0] == 1
    assert histogram[1, -1] == 2
    for bad in (np.nan, -1.0):
        with pytest.raises(GridError, match="smallest score"):
            score_histogram(np.array([0.5, bad]), np.array([True, False]))


def test_ranges_and_regions_select_their_voxels() -> None:
    """Two frames in 1/4, 1/2 and 1 of a grid of 0.8 m: all of it, and what is visible, its left half."""
    grid = VoxelGrid((0.0, -0.4, 0.0), 0.2, (4, 4, 1))
    occupied, known, left = np.zeros(grid.shape, bool), np.ones(grid.shape, bool), np.zeros(grid.shape, bool)
    occupied[1, 1, 0] = occupied[3, 0, 0] = left[:, 2:] = True
    known[0, 1, 0] = False
    score = np.full(grid.shape, 0.1, np.float32)
    score[1, 1, 0] = 0.9
    truth = VoxelTruth("exact", grid, RigidTransform.identity(), occupied, known, np.ones(grid.shape, bool), left)
    answer = VoxelAnswer(score, {"half": score >= 0.5})
    tally = OccupancyTally(None)
    for times in (1, 2):
        tally.add(SimpleNamespace(truth=FrameTruth(truth, None), voxels=answer))
        found = {(row["range_m"], row["region"]): (row["voxels"], row["iou"]) for row in tally.rows()}
        assert found[0.4, ALL] == (3 * times, 1.0) and found[0.8, ALL] == (15 * times, 0.5)
        assert found[0.4, VISIBLE][0] == 2 * times and found[0.8, VISIBLE][0] == 8 * times
    moved = replace(truth, grid=VoxelGrid((0.0, 0.0, 0.0), 0.2, (4, 4, 1)))
    with pytest.raises(GridError, match="changes between frames"):
        tally.add(SimpleNamespace(truth=FrameTruth(moved, None), voxels=answer))
    with pytest.raises(GridError, match="Give a square grid"):  # of which a quarter would fit, but not all of it
        crops_within(VoxelGrid((0.0, -0.5, 0.0), 0.2, (4, 5, 1)))


# Calibration against hand computation and scikit-learn.


def small_scores(seed: int, count: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Opacities far below 1, occupied with the probability min(1, (4 a)^2)."""
    random = np.random.default_rng(seed)
    score = (random.beta(0.4, 4.0, count) * 0.35).astype(np.float32)
    return score, random.random(count) < np.minimum(1.0, (4.0 * score) ** 2)


def expected_calibration_error(probability: np.ndarray, occupied: np.ndarray) -> float:
    return float(calibration_errors(calibration_sums(probability, occupied))["expected_calibration_error"])


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


def test_fit_needs_both_kinds_and_a_score_that_separates_them() -> None:
    with pytest.raises(GridError, match="0 occupied"):
        fit_calibration(score_histogram(np.linspace(0, 1, 50), np.zeros(50, dtype=bool)))
    with pytest.raises(GridError, match="does not tell"):
        fit_calibration(score_histogram(np.full(50, 0.2), np.arange(50) % 2 == 0))


def test_errors_by_hand() -> None:
    sums = calibration_sums(np.array([0.1, 0.3]), np.array([False, True]), 2)  # stated 0.2, observed 0.5
    sums += calibration_sums(np.array([0.6, 1.0]), np.array([True, True]), 2)  # stated 0.8, observed 1.0
    errors = calibration_errors(sums)
    assert errors["expected_calibration_error"] == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)
    assert errors["brier"] == pytest.approx((0.01 + 0.49 + 0.16 + 0.0) / 4)
    low, high = errors["reliability"]
    assert low == pytest.approx({"voxels": 2, "stated": 0.2, "observed": 0.5})
    assert high == pytest.approx({"voxels": 2, "stated": 0.8, "observed": 1.0})
