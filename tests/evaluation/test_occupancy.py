"""Occupancy scores against hand computation and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, jaccard_score, precision_score, recall_score

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.occupancy import OccupancyByRange, OccupancyMetric, score_histogram
from scene_completion_ros.geometry.grids import VoxelGrid


def test_four_voxels_by_hand() -> None:
    metric, score = OccupancyMetric(), np.array([0.9, 0.6, 0.4, 0.1])
    metric.update(score, np.array([True, False, True, False]), score >= 0.5)
    scores = metric.compute()
    assert (scores.voxels, scores.occupied_fraction) == (4, 0.5)
    assert (scores.iou, scores.precision, scores.recall) == (pytest.approx(1 / 3), 0.5, 0.5)
    assert scores.best_iou == pytest.approx(2 / 3)  # the first three
    assert 0.39 < scores.best_threshold <= 0.4
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    occupied = random.random(5000) < 0.1
    score = (10.0 ** (random.normal(-2.5, 0.7, 5000) + 0.6 * occupied)).clip(0, 1).astype(np.float32)
    metric, predicted = OccupancyMetric(), score >= 0.01
    metric.update(score, occupied, predicted)
    scores = metric.compute()
    rounded = score.astype(np.float16).astype(np.float64)
    assert scores.average_precision == pytest.approx(average_precision_score(occupied, rounded), abs=1e-12)
    assert scores.average_precision == pytest.approx(average_precision_score(occupied, score), abs=1e-3)
    assert scores.iou == pytest.approx(jaccard_score(occupied, predicted))
    assert scores.precision == pytest.approx(precision_score(occupied, predicted))
    assert scores.recall == pytest.approx(recall_score(occupied, predicted))
    selected = [rounded >= threshold for threshold in np.unique(rounded)]
    assert scores.best_iou == pytest.approx(max((mask & occupied).sum() / (mask | occupied).sum() for mask in selected))
    assert jaccard_score(occupied, score >= scores.best_threshold) == pytest.approx(scores.best_iou)


def test_figures_without_occupied_voxels_are_undefined() -> None:
    metric = OccupancyMetric()
    metric.update(np.array([0.2]), np.array([False]), np.array([False]))
    scores = metric.compute()
    assert all(math.isnan(value) for value in (scores.iou, scores.recall, scores.best_iou, scores.average_precision))


def test_large_and_negative_zero_scores_are_counted_and_bad_ones_refused() -> None:
    histogram = score_histogram(np.array([-0.0, 1e30, np.inf]), np.array([True, True, True]))
    assert histogram[1, 0] == 1
    assert histogram[1, -1] == 2
    for bad in (np.nan, -1.0):
        with pytest.raises(GridError, match="smallest score"):
            score_histogram(np.array([0.5, bad]), np.array([True, False]))
    with pytest.raises(GridError, match="equal shapes"):
        score_histogram(np.zeros(3), np.zeros(2, dtype=bool))


def test_ranges_and_regions_select_their_voxels() -> None:
    grid = VoxelGrid((0.0, -0.4, 0.0), 0.2, (4, 4, 1))
    occupied = np.zeros(grid.shape, dtype=bool)
    occupied[1, 1, 0] = occupied[3, 0, 0] = True
    score = np.full(grid.shape, 0.1)
    score[1, 1, 0] = 0.9
    known = np.ones(grid.shape, dtype=bool)
    known[0, 1, 0] = False
    left = np.zeros(grid.shape, dtype=bool)
    left[:, 2:] = True
    metric = OccupancyByRange(grid, ranges=(0.4, 0.8))
    metric.update(score, occupied, known, {"all": np.ones_like(known), "left": left}, score >= 0.5)
    scores = metric.compute()
    assert (scores[0.4, "all"].voxels, scores[0.4, "all"].iou) == (3, 1.0)
    assert (scores[0.8, "all"].voxels, scores[0.8, "all"].iou) == (15, 0.5)
    assert (scores[0.4, "left"].voxels, scores[0.8, "left"].voxels) == (2, 8)
    metric.update(score, occupied, known, {"all": np.ones_like(known)}, score >= 0.5)
    assert metric.compute()[0.8, "all"].voxels == 30
    assert metric.compute()[0.8, "left"].voxels == 8
