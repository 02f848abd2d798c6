"""Confusion matrices and IoU against hand computation and scikit-learn."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.evaluation.semantics import (
    UNASSIGNED,
    class_confusion,
    class_iou,
    match_cityscapes,
    match_covering,
    match_one_to_one,
    mean_iou,
    renamed,
)


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


def agreement(confusion: np.ndarray, assignment: np.ndarray) -> int:
    return sum(int(confusion[k, c]) for k, c in enumerate(assignment) if c != UNASSIGNED)


def test_a_permutation_is_found_and_every_iou_stands_beside_its_own_name() -> None:
    """Three classes of different difficulty, predicted under shuffled names."""
    names = ("road", "car", "pole")
    truth = np.repeat([0, 1, 2], [10, 10, 10])
    good = truth.copy()
    good[10:15] = 0  # half of the cars are called road; poles are right
    cluster_of_class = np.array([2, 0, 1])
    clusters = cluster_of_class[good]
    confusion = class_confusion(clusters, truth, 3, 3)
    assignment = match_one_to_one(confusion)
    np.testing.assert_array_equal(assignment, [1, 2, 0])  # cluster 0 is car, 1 pole, 2 road
    by_name = dict(zip(names, class_iou(renamed(confusion, assignment)), strict=True))
    assert by_name == {"road": 10 / 15, "car": 5 / 10, "pole": 1.0}
    # The published code moves the true rows instead, and so prints the IoU of each class beside another's name.
    true_first = confusion.T
    moved = true_first[np.argsort(match_one_to_one(true_first))]
    published = np.diag(moved) / (moved.sum(0) + moved.sum(1) - np.diag(moved))
    np.testing.assert_allclose(published, [by_name["car"], by_name["pole"], by_name["road"]])


def test_more_and_fewer_clusters_than_classes_by_hand() -> None:
    confusion = np.array([[9, 1], [8, 2], [0, 3], [0, 0]])
    np.testing.assert_array_equal(match_one_to_one(confusion), [0, UNASSIGNED, 1, UNASSIGNED])
    np.testing.assert_array_equal(match_covering(confusion), [0, 0, 1, 0])
    np.testing.assert_array_equal(match_one_to_one(np.array([[1, 5, 4], [0, 6, 1]])), [2, 1])


def test_covering_takes_from_the_majority_what_costs_least() -> None:
    confusion = np.array([[9, 1], [8, 7], [5, 0]])  # the majority never says 1
    np.testing.assert_array_equal(match_covering(confusion), [0, 1, 0])
    with pytest.raises(GridError, match="2 clusters for 3 classes"):
        match_covering(np.ones((2, 3), int))


@pytest.mark.parametrize("seed", range(5))
def test_against_exhaustive_search(seed: int) -> None:
    confusion = np.random.default_rng(seed).integers(0, 20, (5, 4))
    one_to_one = max(
        sum(confusion[cluster, c] for c, cluster in enumerate(chosen)) for chosen in permutations(range(5), 4)
    )
    covering = max(agreement(confusion, np.array(a)) for a in product(range(4), repeat=5) if set(a) == set(range(4)))
    found = match_one_to_one(confusion)
    assert agreement(confusion, found) == one_to_one
    assert sorted(found) == [UNASSIGNED, 0, 1, 2, 3]
    assert agreement(confusion, match_covering(confusion)) == covering
    assert set(match_covering(confusion)) == {0, 1, 2, 3}
    assert confusion.max(axis=1).sum() >= covering >= one_to_one


def test_clusters_named_by_the_classes_of_cityscapes() -> None:
    """Three clusters lie on buildings: two of them are called so; whoever is left over is a rider, so to say."""
    building, road = COMMON_CLASSES.index("building"), COMMON_CLASSES.index("road")
    confusion = np.zeros((19, 15), np.int64)
    confusion[:3, building - 1], confusion[3, road - 1], confusion[4, road - 1] = (30, 20, 10), 9, 8
    named = match_cityscapes(confusion)
    assert (named == building - 1).tolist() == [True, True, *[False] * 17]
    assert (named == road - 1).tolist() == [*[False] * 3, True, *[False] * 15]
    assert (named == UNASSIGNED).sum() == 2 and named.max() == 14
