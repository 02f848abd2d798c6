"""Semantic scene completion: every rule of the protocols on voxels counted by hand, sums against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, precision_score, recall_score

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import (
    COMMON_CLASSES,
    SEMANTIC_KITTI_CLASSES,
    SEMANTIC_KITTI_OFFICIAL,
    SEMANTIC_KITTI_TO_COMMON,
    ClassMap,
)
from scene_completion_ros.evaluation.semantics import (
    SSCBENCH_GRID,
    UNASSIGNED,
    SemanticCompletionMetric,
    additional_invalid,
    completion_confusion,
    completion_scores,
    match_occupied,
    match_one_to_one,
)
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_worlds.street.street_line import StreetClass

CAR, ROAD, BUILDING, VEGETATION = (COMMON_CLASSES.index(name) for name in ("car", "road", "building", "vegetation"))
SMALL_GRID = VoxelGrid((0.0, -1.6, -1.0), 0.2, (16, 16, 10))


def small() -> SemanticCompletionMetric:
    return SemanticCompletionMetric(SMALL_GRID, ranges=(1.6, 3.2))


def random_grids(seed: int, classes: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, truth and field of view, half of the voxels right and a tenth of unknown truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, SMALL_GRID.shape)
    predicted = np.where(random.random(truth.shape) < 0.5, truth, random.integers(0, classes, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    return predicted, truth.astype(np.uint8), random.random(truth.shape) < 0.8


def test_the_ground_rule_in_scores() -> None:
    truth = np.zeros((1, 1, 10), np.uint8)
    truth[0, 0, 2] = ROAD
    predicted = np.full_like(truth, ROAD)  # road from top to bottom
    scores = completion_scores(completion_confusion(predicted, truth, np.ones(truth.shape, bool)))
    assert (scores["voxels"], scores["precision"]) == (8, 1 / 8)  # the two voxels under the road do not count


def test_free_space_under_the_ground_of_a_column() -> None:
    """What is unknown supports nothing; from index 7 on free space counts whatever is below."""
    ground_at_two = np.array([0, 255, ROAD, 0, 0, VEGETATION, 0, 0, 255, 0])
    nothing_below_seven = np.array([0, 0, 255, 0, 0, 0, 0, 0, BUILDING, 0])
    for column, expected in ((ground_at_two, [0]), (nothing_below_seven, [0, 1, 3, 4, 5, 6])):
        assert np.flatnonzero(additional_invalid(column[None, None])[0, 0]).tolist() == expected
    assert additional_invalid(np.zeros((2, 3, 32), np.uint8)).sum() == 2 * 3 * 7


def test_six_voxels_by_hand() -> None:
    """A column of height 6 above the road: the road is right, a car is called building, one car is missed."""
    truth = np.array([ROAD, CAR, CAR, CAR, 0, 0])[None, None]
    predicted = np.array([ROAD, CAR, BUILDING, 0, VEGETATION, 0])[None, None]
    scores = completion_scores(completion_confusion(predicted, truth, field_of_view=np.ones(truth.shape, bool)))
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
        "mean_iou_of_found": (1 + 1 / 2)
        / 2,  # of three that are occupied in both the road is right, and one of two cars
        "weighted_mean_iou": (14.98 * 1 + 2.85 / 3) / 102.87,  # road, car, all of S4C's weights together
    }
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize(("range_m", "side"), [(12.8, 64), (25.6, 128), (51.2, 256)])
def test_ranges_are_the_first_along_x_and_the_central_along_y(range_m: float, side: int) -> None:
    """Cars at the last voxel inside on each side and at the first one outside."""
    truth = np.full(SSCBENCH_GRID.shape, ROAD, dtype=np.uint8)
    first, last = 128 - side // 2, 128 + side // 2 - 1
    inside = [(0, 128, 0), (side - 1, 128, 31), (5, first, 3), (5, last, 3)]
    outside = [i for i in ((side, 128, 0), (5, first - 1, 3), (5, last + 1, 3)) if min(i) >= 0 and max(i) < 256]
    for index in inside + outside:
        truth[index] = CAR
    metric = SemanticCompletionMetric()
    metric.update(truth, truth, np.ones(truth.shape, bool))
    assert metric.confusion[range_m][CAR, CAR] == 4
    scores = metric.compute()[range_m]
    assert scores["voxels"] == side * side * 32
    assert (scores["iou"], scores["class_iou"]["car"], scores["class_iou"]["road"]) == (1.0, 1.0, 1.0)
    assert scores["mean_iou"] == pytest.approx(2 / 15)


def test_against_scikit_learn() -> None:
    predicted, truth, view = random_grids(0)
    metric = small()
    metric.update(predicted, truth, view)
    for range_m, crop in ((1.6, np.s_[:8, 4:12]), (3.2, np.s_[:])):
        scores = metric.compute()[range_m]
        counted = (truth[crop] != 255) & view[crop]
        for x, y in np.ndindex(*counted.shape[:2]):  # the ground rule once more, voxel by voxel
            for z in range(7):
                below = truth[crop][x, y, :z]
                if truth[crop][x, y, z] == 0 and not ((below != 0) & (below != 255)).any():
                    counted[x, y, z] = False
        found, true = predicted[crop][counted], truth[crop][counted]
        assert scores["voxels"] == true.size
        expected = jaccard_score(true, found, labels=range(1, 16), average=None)
        np.testing.assert_allclose([scores["class_iou"][name] for name in COMMON_CLASSES[1:]], expected)
        assert scores["mean_iou"] == pytest.approx(expected.mean()) == scores["mean_iou_of_present"]
        assert scores["iou"] == pytest.approx(jaccard_score(true > 0, found > 0))
        assert scores["precision"] == pytest.approx(precision_score(true > 0, found > 0))
        assert scores["recall"] == pytest.approx(recall_score(true > 0, found > 0))


def test_clusters_are_scored_under_the_names_of_their_classes() -> None:
    """Shuffled labels give the scores of the classes themselves, each beside its own name."""
    predicted, truth, view = random_grids(5)
    shuffled = np.concatenate([[0], 1 + np.random.default_rng(6).permutation(15)])
    classes, clusters = small(), small()
    classes.update(predicted, truth, view)
    clusters.update(shuffled[predicted], truth, view)
    for match in (match_one_to_one, match_occupied):  # with and without the empty row
        assignment = match(clusters.confusion[3.2])
        np.testing.assert_array_equal(assignment, np.argsort(shuffled))
        assert clusters.compute(assignment) == classes.compute()


def test_more_clusters_than_classes_and_those_without_a_class_are_empty() -> None:
    truth = np.array([ROAD, ROAD, CAR, CAR, 0, 0, 0, 0])[None, None]
    predicted = np.array([20, 20, 18, 3, 18, 0, 3, 0])[None, None]
    view = np.ones(truth.shape, bool)
    confusion = completion_confusion(predicted, truth, field_of_view=view, labels=21)
    names = np.full(21, UNASSIGNED)
    names[[0, 18, 20]] = 0, CAR, ROAD
    scores = completion_scores(confusion, class_of_label=names)
    # Cluster 3 has no class: its voxel of a car is missed, its voxel of free space is free.
    assert (scores["precision"], scores["recall"]) == (3 / 4, 3 / 4)
    assert (scores["class_iou"]["road"], scores["class_iou"]["car"]) == (1.0, pytest.approx(1 / 3))


def test_nothing_counted_is_undefined() -> None:
    scores = SemanticCompletionMetric().compute()[51.2]
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
