"""Confusion matrices and IoU against hand computation and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from scene_completion_ros.evaluation.class_confusion import UNASSIGNED, class_confusion, class_iou, mean_iou, renamed


def test_seven_pixels_by_hand() -> None:
    predicted = np.array([0, 1, 1, 2, 2, 9, 9])
    truth = np.array([0, 1, 0, 1, 2, 255, -1])  # what is ignored may be predicted as anything
    confusion = class_confusion(predicted, truth, 3, 4)
    np.testing.assert_array_equal(confusion, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])  # rows are predictions
    named = renamed(confusion, np.array([0, 1, 2]))
    iou = class_iou(named)
    np.testing.assert_allclose(iou, [1 / 2, 1 / 3, 1 / 2, math.nan])  # the fourth is neither predicted nor true
    assert mean_iou(iou) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 0) / 4)


def test_renaming_the_matrix_is_renaming_the_predictions() -> None:
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 6, 500), random.integers(0, 4, 500)
    names = np.array([2, 0, 2, UNASSIGNED, 1, 3])
    result = renamed(class_confusion(predicted, truth, 6, 4), names)
    expected = class_confusion(np.where(names == UNASSIGNED, 4, names)[predicted], truth, 5, 4)
    np.testing.assert_array_equal(result, expected)
    as_first = renamed(class_confusion(predicted, truth, 6, 4), names, unassigned=0)
    np.testing.assert_array_equal(as_first[0], expected[0] + expected[4])
    assert not as_first[4].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_against_scikit_learn(dtype: type) -> None:
    random = np.random.default_rng(1)
    predicted, truth = random.integers(0, 5, 3000).astype(dtype), random.integers(0, 5, 3000).astype(dtype)
    confusion = class_confusion(predicted, truth, 5, 5)
    np.testing.assert_array_equal(confusion.T, confusion_matrix(truth, predicted))
    np.testing.assert_allclose(class_iou(confusion), jaccard_score(truth, predicted, average=None))
    assert mean_iou(class_iou(confusion)) == pytest.approx(jaccard_score(truth, predicted, average="macro"))
