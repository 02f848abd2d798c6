"""Confusions, semantic completion and zero-shot scores: cases by hand, and against the released code."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation import semantics
from scene_completion_ros.evaluation.semantic_classes import (
    COMMON_CLASSES,
    SEMANTIC_KITTI_CLASSES,
    SEMANTIC_KITTI_OFFICIAL,
    SEMANTIC_KITTI_TO_COMMON,
    ClassMap,
)
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_worlds.street.street_line import StreetClass


def test_seven_pixels_by_hand() -> None:
    predicted = np.array([0, 1, 1, 2, 2, 9, 9])
    truth = np.array([0, 1, 0, 1, 2, 255, -1])  # what is ignored may be predicted as anything
    confusion = semantics.class_confusion(predicted, truth, 3, 4)
    np.testing.assert_array_equal(confusion, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])  # rows are predictions
    partly = semantics.renamed(confusion, np.array([0, semantics.UNASSIGNED, 0]))
    np.testing.assert_array_equal(partly[[0, 4]], [[1, 1, 1, 0], [1, 1, 0, 0]])  # the last row is of no class
    named = semantics.renamed(confusion, np.array([0, 1, 2]))
    iou = semantics.class_iou(named)
    np.testing.assert_allclose(iou, [1 / 2, 1 / 3, 1 / 2, math.nan])  # the fourth is neither predicted nor true
    assert semantics.mean_iou(iou) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 0) / 4)


def test_more_and_fewer_clusters_than_classes_by_hand() -> None:
    confusion = np.array([[9, 1], [8, 2], [0, 3], [0, 0]])
    assert semantics.match_one_to_one(confusion).tolist() == [0, semantics.UNASSIGNED, 1, semantics.UNASSIGNED]
    np.testing.assert_array_equal(semantics.match_one_to_one(np.array([[1, 5, 4], [0, 6, 1]])), [2, 1])


def test_clusters_named_by_the_classes_of_cityscapes() -> None:
    """Three clusters lie on buildings: two of them get the name; those left over are riders."""
    building, road = COMMON_CLASSES.index("building"), COMMON_CLASSES.index("road")
    confusion = np.zeros((19, 15), np.int64)
    confusion[:3, building - 1], confusion[3, road - 1], confusion[4, road - 1] = (30, 20, 10), 9, 8
    named = semantics.match_cityscapes(confusion)
    assert (named == building - 1).tolist() == [True, True, *[False] * 17]
    assert (named == road - 1).tolist() == [*[False] * 3, True, *[False] * 15]
    assert (named == semantics.UNASSIGNED).sum() == 2 and named.max() == 14


# Semantic scene completion: every rule of the protocols on voxels counted by hand.


CAR, ROAD, BUILDING, VEGETATION = (COMMON_CLASSES.index(name) for name in ("car", "road", "building", "vegetation"))


def test_free_space_under_the_ground_of_a_column() -> None:
    """What is unknown supports nothing; from index 7 on free space counts whatever is below."""
    ground_at_two = np.array([0, 255, ROAD, 0, 0, VEGETATION, 0, 0, 255, 0])
    nothing_below_seven = np.array([0, 0, 255, 0, 0, 0, 0, 0, BUILDING, 0])
    for column, expected in ((ground_at_two, [0]), (nothing_below_seven, [0, 1, 3, 4, 5, 6])):
        assert np.flatnonzero(semantics.additional_invalid(column[None, None])[0, 0]).tolist() == expected
    assert semantics.additional_invalid(np.zeros((2, 3, 32), np.uint8)).sum() == 2 * 3 * 7


def test_six_voxels_by_hand() -> None:
    """A column of height 6 above the road: the road is right, a car is called building, one car is missed."""
    truth = np.array([ROAD, CAR, CAR, CAR, 0, 0])[None, None]
    predicted = np.array([ROAD, CAR, BUILDING, 0, VEGETATION, 0])[None, None]
    scores = semantics.completion_scores(
        semantics.completion_confusion(predicted, truth, field_of_view=np.ones(truth.shape, bool))
    )
    classes = scores.pop("class_iou")
    assert list(classes) == list(COMMON_CLASSES[1:]) and math.isnan(classes["pole"])
    assert (classes["road"], classes["car"]) == (1.0, pytest.approx(1 / 3))
    assert classes["building"] == classes["vegetation"] == 0.0  # predicted, but nowhere
    expected = {
        "voxels": 6,
        "iou": 3 / 5,
        "precision": 3 / 4,  # vegetation is in free space
        "recall": 3 / 4,  # one car is missed
        "mean_iou": (1 + 1 / 3) / 15,  # what is nowhere counts as 0
        "mean_iou_of_present": (1 + 1 / 3) / 2,
        "mean_iou_of_found": (1 + 1 / 2) / 2,  # of three occupied in both the road is right, and one of two cars
        "weighted_mean_iou": (14.98 * 1 + 2.85 / 3) / 102.87,  # road, car, all of S4C's weights together
    }
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize(("range_m", "side"), [(12.8, 64), (25.6, 128), (51.2, 256)])
def test_ranges_are_the_first_along_x_and_the_central_along_y(range_m: float, side: int) -> None:
    """Cars at the last voxel inside on each side and at the first one outside."""
    truth = np.full(semantics.SSCBENCH_GRID.shape, ROAD, dtype=np.uint8)
    first, last = 128 - side // 2, 128 + side // 2 - 1
    inside = [(0, 128, 0), (side - 1, 128, 31), (5, first, 3), (5, last, 3)]
    outside = [i for i in ((side, 128, 0), (5, first - 1, 3), (5, last + 1, 3)) if min(i) >= 0 and max(i) < 256]
    for index in inside + outside:
        truth[index] = CAR
    metric = semantics.SemanticCompletionMetric()
    metric.update(truth, truth, np.ones(truth.shape, bool))
    assert metric.confusion[range_m][CAR, CAR] == 4
    scores = metric.compute()[range_m]
    assert scores["voxels"] == side * side * 32
    assert (scores["iou"], scores["class_iou"]["car"], scores["class_iou"]["road"]) == (1.0, 1.0, 1.0)
    assert scores["mean_iou"] == pytest.approx(2 / 15)


def test_clusters_are_scored_under_the_names_of_their_classes() -> None:
    """Shuffled labels give the scores of the classes themselves, each under its own name."""
    random, grid = np.random.default_rng(5), VoxelGrid((0.0, -1.6, -1.0), 0.2, (16, 16, 10))
    truth = random.integers(0, 16, grid.shape)
    predicted = np.where(random.random(truth.shape) < 0.5, truth, random.integers(0, 16, truth.shape))  # half is right
    truth[random.random(truth.shape) < 0.1] = 255
    truth, view = truth.astype(np.uint8), random.random(truth.shape) < 0.8
    shuffled = np.concatenate([[0], 1 + np.random.default_rng(6).permutation(15)])
    classes, clusters = (semantics.SemanticCompletionMetric(grid) for _ in range(2))
    classes.update(predicted, truth, view)
    clusters.update(shuffled[predicted], truth, view)
    for match in (semantics.match_one_to_one, semantics.match_occupied):  # with and without the empty row
        assignment = match(clusters.confusion[3.2])
        np.testing.assert_array_equal(assignment, np.argsort(shuffled))
        assert clusters.compute(assignment) == classes.compute()


def test_more_clusters_than_classes_and_those_without_a_class_are_empty() -> None:
    truth = np.array([ROAD, ROAD, CAR, CAR, 0, 0, 0, 0])[None, None]
    predicted = np.array([20, 20, 18, 3, 18, 0, 3, 0])[None, None]
    view = np.ones(truth.shape, bool)
    confusion = semantics.completion_confusion(predicted, truth, field_of_view=view, labels=21)
    names = np.full(21, semantics.UNASSIGNED)
    names[[0, 18, 20]] = 0, CAR, ROAD
    scores = semantics.completion_scores(confusion, class_of_label=names)
    # Cluster 3 has no class: its voxel of a car is missed, its voxel of free space is free.
    assert (scores["precision"], scores["recall"]) == (3 / 4, 3 / 4)
    assert (scores["class_iou"]["road"], scores["class_iou"]["car"]) == (1.0, pytest.approx(1 / 3))


def test_nothing_counted_is_undefined() -> None:
    scores = semantics.SemanticCompletionMetric().compute()[51.2]
    assert (scores["voxels"], scores["mean_iou"]) == (0, 0.0)
    assert math.isnan(scores["iou"]) and math.isnan(scores["mean_iou_of_present"])


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (SEMANTIC_KITTI_OFFICIAL, [*range(20)]),
        (SEMANTIC_KITTI_TO_COMMON, [0, 1, 2, 3, 4, 5, 6, 255, 255, 7, 8, 8, 12, 9, 10, 11, 11, 12, 13, 14]),
    ],
)
def test_every_id(mapping: ClassMap, expected: list[int]) -> None:
    np.testing.assert_array_equal(mapping.apply(np.arange(len(expected))), expected)
    np.testing.assert_array_equal(mapping.apply(np.array([[-1], [255]])), [[255], [255]])
    assert mapping.apply(np.array([1, 255], np.uint8)).dtype == np.uint8
    np.testing.assert_array_equal(mapping.apply(np.array([1, -1], np.int8)), [expected[1], 255])
    with pytest.raises(GridError, match=rf"ids \[{len(expected)}\] are none of"):
        mapping.apply(np.array([0, len(expected)]))
    with pytest.raises(GridError, match=r"ids \[-2, 300\]"):
        mapping.apply(np.array([300, -2, 1]))
    assert mapping.apply(np.zeros((0, 3), int)).shape == (0, 3)


def test_the_street_world_speaks_semantic_kitti() -> None:
    assert [entry.name.lower().replace("_", "-") for entry in StreetClass][1:] == list(SEMANTIC_KITTI_CLASSES[1:])


# Zero-shot scores: voxels counted by hand, and the released code's own numbers.


NAMES = ("car", "road", "tree", "pole")
CONFUSION = np.array([[3, 1, 0, 0], [1, 4, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [2, 0, 1, 0]], np.int64)
"""By hand: 6 cars (2 without a label), 6 of road, 2 trees (1 without a label), no pole; nothing is called pole."""
ALL = (51.2, "all")


def test_a_class_scores_as_the_best_of_its_phrases() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
    features = np.array([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]], np.float32)
    scores = semantics.class_scores(features, rows, np.array([0, -1, 0]), 2)  # the second phrase is no class's
    np.testing.assert_allclose(scores[:2, 0], [1.0, -0.0], atol=1e-6)
    assert np.isneginf(scores[:, 1]).all() and np.isneginf(scores[2:]).all()
    assert semantics.best_classes(scores).tolist() == [0, 0, 2, 2, 2]


def test_both_denominators_and_what_the_released_code_forgets_by_hand() -> None:
    """car 3 / (6 + 4 - 3), road 4 / (6 + 5 - 4), tree 1 / (2 + 2 - 1); three classes are true, there are four.

    To the released code voxels without a feature are no misses of car, 3 / (4 + 4 - 3), nor of tree, 1 / (1 + 2 - 1).
    """
    scores = semantics.zero_shot_scores(CONFUSION, NAMES)
    classes, accuracies = scores.pop("class_iou"), scores.pop("class_accuracy")
    iou, accuracy = 3 / 7 + 4 / 7 + 1 / 3, 3 / 6 + 4 / 6 + 1 / 2
    shares = {"mean_iou": iou / 3, "mean_iou_of_all": iou / 4, "accuracy": (3 + 4 + 1) / 14}
    shares |= {"mean_accuracy": accuracy / 3, "mean_accuracy_of_all": accuracy / 4}
    assert scores == pytest.approx(
        {"voxels": 14, "without_feature": 3, **shares, "released_mean_iou": (3 / 5 + 4 / 7 + 1 / 2) / 4}
    )
    assert classes["tree"] == pytest.approx(1 / 3) and math.isnan(classes["pole"])
    assert accuracies["car"] == 0.5 and math.isnan(accuracies["pole"])
    said, true = (np.repeat(numbers.ravel(), CONFUSION.ravel()) for numbers in np.indices(CONFUSION.shape))
    metric = semantics.ZeroShotMetric(NAMES)
    metric.add(SimpleNamespace(predicted=said, true=true, parts={ALL: np.ones(len(true), bool)}))
    (row,) = metric.rows()
    assert {name: row[name] for name in scores} == scores
    nothing = np.zeros((5, 4), np.int64)
    nothing[4, 0] = 3  # where the released code fails
    assert semantics.zero_shot_scores(nothing, NAMES)["released_mean_iou"] == 0.0


def test_a_class_that_is_predicted_but_nowhere_true_costs_others_only() -> None:
    confusion = np.zeros((5, 4), np.int64)
    confusion[0, 0], confusion[3, 0] = 1, 1
    scores = semantics.zero_shot_scores(confusion, NAMES)
    assert scores["mean_iou"] == 0.5 and scores["class_iou"]["pole"] == 0.0 and scores["mean_iou_of_all"] == 0.125
    nothing = semantics.zero_shot_scores(np.zeros((5, 4), np.int64), NAMES)
    assert math.isnan(nothing["mean_iou"]) and math.isnan(nothing["accuracy"])


def test_average_precision_by_hand() -> None:
    """Ranked: hit, miss, then a tied block of one hit and one miss: 1/2 · 1/1 + 1/2 · 2/4."""
    score, positive = np.array([0.2, 0.9, 0.5, 0.2]), np.array([True, True, False, False])
    assert semantics.average_precision(score, positive) == pytest.approx(0.75)
    assert semantics.average_precision(score[::-1], positive[::-1]) == pytest.approx(0.75)  # the tied the other way
    assert semantics.average_precision(np.zeros(4), positive) == 0.5  # the share of positives
    assert math.isnan(semantics.average_precision(score, np.zeros(4, bool)))


def test_words_have_their_prior() -> None:
    """Two frames; voxels without a feature come last, the first word has a perfect ranking where it is near."""
    metric = semantics.WordMetric({"automobile": [0], "greenery": [2, 3], "boat": [7]})
    assert not list(metric.rows())
    truth = np.array([0, 2, 3, 1])
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3], [0.1, 0.7, 0.3], [-np.inf] * 3], np.float32)
    common = np.array([0.0, 0.0, 0.0, -np.inf], np.float32)
    near = np.array([True, True, False, False])
    for ids, masked in ((truth, near), (np.array([1, 1, 1, 0]), ~near)):
        parts = {ALL: np.ones(4, bool), (12.8, "all"): masked}
        metric.add(SimpleNamespace(cosine=scores, common=common, ids=ids, parts=parts))
    found = {(row["word"], row["range_m"]): row for row in metric.rows()}
    car = found["automobile", 51.2]
    assert (car["voxels"], car["positives"], car["prior"]) == (8, 2, 0.25)
    # All: 0.9 twice (one hit), then nothing until the block of two without a feature, whose one hit is the last of 8.
    assert car["average_precision"] == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 8)
    # Near: 0.9 hit, 0.2 miss, 0.1 miss, none: hit.
    assert found["automobile", 12.8]["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)
    assert car["average_precision_of_cosine"] == car["average_precision"]  # nothing is common
    assert math.isnan(found["boat", 51.2]["average_precision"])
    every, green = np.concatenate([scores[:, 1]] * 2), found["greenery", 51.2]
    positive = np.isin(np.concatenate([truth, [1, 1, 1, 0]]), [2, 3])
    assert (green["positives"], green["average_precision"]) == (2, semantics.average_precision(every, positive))
    both = (car["average_precision"] + green["average_precision"]) / 2.0
    assert found["mean", 51.2]["average_precision"] == pytest.approx(both)  # of the words that some voxel is meant by
