"""Zero-shot scores: voxels counted by hand, the released code's own numbers, AP against scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from scene_completion_ros.evaluation.semantics import (
    WordMetric,
    ZeroShotMetric,
    average_precision,
    best_classes,
    class_scores,
    zero_shot_scores,
)

NAMES = ("car", "road", "tree", "pole")
CONFUSION = np.array([[3, 1, 0, 0], [1, 4, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [2, 0, 1, 0]], np.int64)
"""By hand: 6 cars (2 without a label), 6 of road, 2 trees (1 without a label), no pole; nothing is called pole."""
ALL = (51.2, "all")


def test_a_class_scores_as_the_best_of_its_phrases() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
    features = np.array([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]], np.float32)
    scores = class_scores(features, rows, np.array([0, -1, 0]), 2)  # the second phrase is no class's
    np.testing.assert_allclose(scores[:2, 0], [1.0, -0.0], atol=1e-6)
    assert np.isneginf(scores[:, 1]).all() and np.isneginf(scores[2:]).all()
    assert best_classes(scores).tolist() == [0, 0, 2, 2, 2]


def test_both_denominators_and_what_the_released_code_forgets_by_hand() -> None:
    """car 3 / (6 + 4 - 3), road 4 / (6 + 5 - 4), tree 1 / (2 + 2 - 1); three classes are true, there are four.

    To the released code voxels without a feature are no misses of car, 3 / (4 + 4 - 3), nor of tree, 1 / (1 + 2 - 1).
    """
    scores = zero_shot_scores(CONFUSION, NAMES)
    classes, accuracies = scores.pop("class_iou"), scores.pop("class_accuracy")
    iou, accuracy = 3 / 7 + 4 / 7 + 1 / 3, 3 / 6 + 4 / 6 + 1 / 2
    shares = {"mean_iou": iou / 3, "mean_iou_of_all": iou / 4, "accuracy": (3 + 4 + 1) / 14}
    shares |= {"mean_accuracy": accuracy / 3, "mean_accuracy_of_all": accuracy / 4}
    assert scores == pytest.approx(
        {"voxels": 14, "without_feature": 3, **shares, "released_mean_iou": (3 / 5 + 4 / 7 + 1 / 2) / 4}
    )
    assert classes["tree"] == pytest.approx(1 / 3) and math.isnan(classes["pole"])
    assert accuracies["car"] == 0.5 and math.isnan(accuracies["pole"])
    nothing = np.zeros((5, 4), np.int64)
    nothing[4, 0] = 3  # where the released code fails
    assert zero_shot_scores(nothing, NAMES)["released_mean_iou"] == 0.0


def test_the_released_code_itself_says_so() -> None:
    """OpenScene's `util/metric.py`, which CUA-O3D has too, on random labels."""
    random = np.random.default_rng(0)
    said, true = random.integers(0, 5, 400), random.choice([0, 1, 2, 255], 400)
    counts = np.zeros((5, 5))
    for row, column in zip(said, true, strict=True):
        if column != 255:
            counts[row, column] += 1
    counts = counts[:4, :4]  # without what has no feature
    iou = [counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]) for k in range(3)]
    accuracy = [counts[k, k] / (true == k).sum() for k in range(3)]
    metric = ZeroShotMetric(NAMES)
    metric.add(SimpleNamespace(predicted=said, true=true, parts={ALL: np.ones(400, bool)}))
    (scores,) = metric.rows()
    assert scores["released_mean_iou"] == pytest.approx(sum(iou) / 4)
    assert scores["mean_accuracy_of_all"] == pytest.approx(sum(accuracy) / 4)


def test_a_class_that_is_said_but_nowhere_true_costs_others_only() -> None:
    confusion = np.zeros((5, 4), np.int64)
    confusion[0, 0], confusion[3, 0] = 1, 1
    scores = zero_shot_scores(confusion, NAMES)
    assert scores["mean_iou"] == 0.5 and scores["class_iou"]["pole"] == 0.0 and scores["mean_iou_of_all"] == 0.125
    nothing = zero_shot_scores(np.zeros((5, 4), np.int64), NAMES)
    assert math.isnan(nothing["mean_iou"]) and math.isnan(nothing["accuracy"])


def test_average_precision_by_hand() -> None:
    """Ranked: hit, miss, then a tied block of one hit and one miss: 1/2 · 1/1 + 1/2 · 2/4."""
    score, positive = np.array([0.2, 0.9, 0.5, 0.2]), np.array([True, True, False, False])
    assert average_precision(score, positive) == pytest.approx(0.75)
    assert average_precision(score[::-1], positive[::-1]) == pytest.approx(0.75)  # whichever of the tied comes first
    assert average_precision(np.zeros(4), positive) == 0.5  # the share of positives
    assert math.isnan(average_precision(score, np.zeros(4, bool)))


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_average_precision_is_scikit_learns(levels: int) -> None:
    random = np.random.default_rng(levels)
    score, positive = random.integers(-levels, levels, 500) / levels, random.random(500) < 0.2
    assert average_precision(score, positive) == pytest.approx(average_precision_score(positive, score), abs=1e-12)


def test_words_stand_beside_their_prior() -> None:
    """Two frames; voxels without a feature come last, the first word has a perfect ranking where it is near."""
    metric = WordMetric({"automobile": [0], "greenery": [2, 3], "boat": [7]})
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
    assert (green["positives"], green["average_precision"]) == (2, average_precision(every, positive))
    both = (car["average_precision"] + green["average_precision"]) / 2.0
    assert found["mean", 51.2]["average_precision"] == pytest.approx(both)  # of the words that some voxel is meant by
