import math

import numpy as np
import pytest

from scene_completion_ros.evaluation.invisible_empty import InvisibleEmptyMetric, invisible_empty_scores
from scene_completion_ros.evaluation.lidar_occupancy import ORIGINAL, SlabTruth, slab_masks

# Points 0..3 are visible, 4..9 occluded.
PREDICTED = np.array([0, 0, 1, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
OCCUPIED = np.array([0, 0, 0, 0, 1, 1, 0, 1, 0, 0], dtype=bool)
VISIBLE = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)


def test_scores_of_ten_points_by_hand() -> None:
    scores = invisible_empty_scores(PREDICTED, OCCUPIED, VISIBLE)
    assert scores.o_acc == pytest.approx(7 / 10)  # wrong are points 2, 6 and 7
    assert scores.o_prec == pytest.approx(2 / 4)  # predicted 2, 4, 5, 6; of them occupied 4 and 5
    assert scores.o_rec == pytest.approx(2 / 3)  # occupied 4, 5, 7; of them predicted 4 and 5
    assert scores.ie_acc == pytest.approx(4 / 6)  # occluded 4..9; wrong are 6 and 7
    assert scores.ie_prec == pytest.approx(2 / 3)  # occluded and called empty 7, 8, 9; of them empty 8 and 9
    assert scores.ie_rec == pytest.approx(2 / 3)  # occluded and empty 6, 8, 9; of them called empty 8 and 9


def test_nothing_counted_is_not_defined() -> None:
    result = InvisibleEmptyMetric().compute()
    assert math.isnan(result.scores.o_acc)
    assert result.frames == 0


def test_an_empty_field_wins_the_original_protocol_and_is_found_out() -> None:
    # A wall 10 m ahead hides all behind it, in all of 10 scans. The empty field renders a depth beyond every point, so
    # every point counts as visible, none as occluded or occupied, and predicting nothing is always right.
    points = ORIGINAL.points()
    behind = points[..., 2] > 10.0
    truth = SlabTruth(np.where(behind, 10, 0), ~behind, 10)
    empty, everything = np.zeros(behind.shape, dtype=bool), np.ones(behind.shape, dtype=bool)
    metric = InvisibleEmptyMetric()
    masks = slab_masks(truth, ORIGINAL, everything)
    metric.update(empty[masks.rows], masks.occupied, masks.visible)
    result = metric.compute()
    assert result.scores.o_acc == 1.0
    assert math.isnan(result.scores.o_rec) and math.isnan(result.scores.ie_acc) and math.isnan(result.scores.ie_rec)
    assert (result.counts.points, result.counts.occluded, result.counts.occluded_free) == (12_800, 0, 0)
    assert result.warnings == ("no occluded point: O_acc says nothing", "nothing predicted")
    # With masks that do not depend on it, it is right about the free half and misses everything that is occupied.
    fair = InvisibleEmptyMetric()
    masks = slab_masks(truth, ORIGINAL, np.zeros(behind.shape, dtype=bool))
    fair.update(empty, masks.occupied, masks.visible)
    assert fair.compute().scores.o_acc == pytest.approx(1.0 - behind.mean())
    assert fair.compute().scores.o_rec == 0.0
