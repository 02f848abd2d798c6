"""Segmentation scores against hand computation and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.class_confusion import UNASSIGNED
from scene_completion_ros.evaluation.cluster_assignment import match_majority, match_one_to_one
from scene_completion_ros.evaluation.segmentation import SegmentationMetric

NAMES = ("road", "car", "pole", "train")


def test_an_image_of_clusters_by_hand() -> None:
    """Five clusters, one without a class; no train anywhere."""
    clusters = np.array([[0, 0, 0, 4], [1, 1, 2, 3]])
    truth = np.array([[1, 1, 0, -1], [0, 0, 2, 2]])
    metric = SegmentationMetric(NAMES, labels=5)
    metric.update(clusters, truth)
    assignment = np.array([1, 0, 2, UNASSIGNED, UNASSIGNED])
    scores = metric.compute(assignment)
    assert scores.pixels == 7  # one is not labelled
    assert scores.accuracy == pytest.approx(5 / 7)  # wrong: the third of cluster 0, and cluster 3
    assert scores.class_iou["road"] == pytest.approx(2 / 3)
    assert scores.class_iou["car"] == pytest.approx(2 / 3)
    assert scores.class_iou["pole"] == pytest.approx(1 / 2)  # the pole of no class is missed, and no one's mistake
    assert math.isnan(scores.class_iou["train"])
    assert scores.mean_iou == pytest.approx((2 / 3 + 2 / 3 + 1 / 2 + 0) / 4)
    assert scores.mean_iou_of_present == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)
    many = metric.compute(match_majority(metric.confusion))
    assert many.accuracy == pytest.approx(6 / 7)
    assert many.class_iou["pole"] == 1.0


def test_against_scikit_learn_under_shuffled_names() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (30, 40)).astype(np.uint8)
    predicted = np.where(random.random(truth.shape) < 0.7, truth, random.integers(0, 4, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    shuffled = np.array([3, 1, 0, 2])
    metric = SegmentationMetric(NAMES)
    metric.update(shuffled[predicted], truth)
    assignment = match_one_to_one(metric.confusion)
    np.testing.assert_array_equal(assignment, np.argsort(shuffled))
    scores, known = metric.compute(assignment), truth != 255
    assert scores.accuracy == pytest.approx(accuracy_score(truth[known], predicted[known]))
    expected = jaccard_score(truth[known], predicted[known], average=None)
    np.testing.assert_allclose(list(scores.class_iou.values()), expected)
    assert scores.mean_iou == pytest.approx(expected.mean())


def test_accumulating_is_concatenating() -> None:
    random = np.random.default_rng(1)
    images = [(random.integers(0, 4, (5, 6)), random.integers(-1, 4, (5, 6))) for _ in range(3)]
    first, second, whole = SegmentationMetric(NAMES), SegmentationMetric(NAMES), SegmentationMetric(NAMES)
    for index, image in enumerate(images):
        (first if index else second).update(*image)
    first.merge(second)
    whole.update(*(np.concatenate(arrays) for arrays in zip(*images, strict=True)))
    assert first.compute() == whole.compute()
    with pytest.raises(GridError, match="differ"):
        first.merge(SegmentationMetric(NAMES, labels=5))


def test_no_pixels_and_no_names() -> None:
    empty = SegmentationMetric(NAMES).compute()
    assert empty.pixels == 0
    assert math.isnan(empty.accuracy) and math.isnan(empty.mean_iou_of_present)
    with pytest.raises(GridError, match="5 labels, 4 classes"):
        SegmentationMetric(NAMES, labels=5).compute()
