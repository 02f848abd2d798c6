"""Scores of points by hand: what network and pixels say together, and what counts."""

import numpy as np
import pytest

from scene_completion_ros.evaluation.metric import Scores
from scene_completion_training.evaluation.point_semantics import ScoredMethod, ensembled
from scene_completion_training.evaluation.probes import POINTS, ProbeAnswer

NONE = -np.inf


def test_network_and_pixels_together_by_hand() -> None:
    """Three points: the network is nearer, the pixels are, and no view sees the last one."""
    network = np.array([[0.9, 0.2], [0.5, 0.4], [0.1, 0.3]], np.float32)
    lifted = np.array([[0.3, 0.7], [0.2, 0.6], [NONE, NONE]], np.float32)
    found = ensembled(network, lifted)
    np.testing.assert_allclose(found["mean"], [[0.6, 0.45], [0.35, 0.5], [0.1, 0.3]])
    np.testing.assert_allclose(found["max"], [[0.9, 0.2], [0.2, 0.6], [0.1, 0.3]])
    best = np.maximum(network.max(axis=1), lifted.max(axis=1))
    np.testing.assert_allclose(found["max"].max(axis=1), best)


def test_scores_of_points_by_hand() -> None:
    """Class 0: 2 of 3 found, one of them without a feature; class 1: found, with one too many; class 2 is nowhere."""
    scores = Scores([POINTS])
    method = ScoredMethod("m", ("floor", "wall", "door"))
    scores.add("rooms", method, ProbeAnswer(np.array([0, 0, 3]), np.array([0, 0, 0])))
    scores.add("rooms", method, ProbeAnswer(np.array([1, 1, 2]), np.array([1, -1, 1])))
    (row,) = scores.rows("points")
    assert row["frames"] == 2 and row["voxels"] == 5 and row["without_feature"] == 1
    assert row["class_iou"] == {"floor": pytest.approx(2 / 3), "wall": pytest.approx(1 / 2), "door": 0.0}
    assert row["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert row["mean_iou_of_all"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert row["released_mean_iou"] == pytest.approx((1 + 1 / 2) / 3)  # the point without a feature is gone
    assert row["mean_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert row["accuracy"] == pytest.approx(3 / 5)
    assert "| m | 2 |" in scores.markdown()
