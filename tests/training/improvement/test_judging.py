"""When a new student is accepted, and which frames are scored."""

from __future__ import annotations

import numpy as np

from scene_completion_ros.evaluation.label_free import LabelFreeScores, Verdict
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_training.improvement.judging import Judgement, _spaced, best_threshold, in_words, reasons_against

GRID = VoxelGrid((0.0, -1.0, 0.0), 1.0, (4, 2, 1))


def judged(old: list[float], new: list[float], places: int = 6) -> Judgement:
    """Two students with the same probabilities at every place: of four free voxels, then of four occupied ones."""
    occupied = np.arange(8).reshape(GRID.shape) >= 4
    scores = []
    for probabilities in (old, new):
        one = LabelFreeScores(GRID, 0.5, (4.0,))
        for place in range(places):
            probability = np.array(probabilities, np.float32).reshape(GRID.shape)
            one.add(probability, occupied, Verdict(~occupied, occupied), place=place)
        scores.append(one)
    return Judgement(scores[0], scores[1], {"drive": places})


GOOD = [0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]
BAD = [0.1, 0.1, 0.8, 0.8, 0.2, 0.9, 0.2, 0.9]


def test_a_better_student_is_accepted() -> None:
    assert reasons_against(judged(BAD, GOOD), None, margin=0.01) == []
    assert reasons_against(judged(BAD, GOOD), judged(GOOD, GOOD), margin=0.01) == []


def test_an_equal_student_is_not() -> None:
    (reason,) = reasons_against(judged(GOOD, GOOD), None, margin=0.01)
    assert reason.startswith(
        "no gain on the held-out drive: average precision 1.0000 -> 1.0000, a gain between +0.0000"
    )


def test_one_that_forgot_is_not() -> None:
    reasons = reasons_against(judged(BAD, GOOD), judged(GOOD, BAD), margin=0.01)
    assert [reason.partition(":")[0] for reason in reasons] == ["a loss on the old drives is not ruled out"] * 2


def test_too_few_places_are_no_reason_to_believe() -> None:
    reasons = reasons_against(judged(BAD, GOOD, places=2), None, margin=0.01)
    assert "too few places (2)" in reasons[0]
    assert in_words(judged(BAD, GOOD).comparison("iou")).startswith("iou 0.3333 -> 1.0000, a gain between +0.6667")


def test_the_threshold_is_where_drives_agree_best() -> None:
    """Each has thresholds of its own that are best; those between 0.3 and 0.5 are best for all three."""
    scores = [
        judged(GOOD, probabilities).new for probabilities in (GOOD, [0.3] * 4 + [0.6] * 4, [0.02] * 4 + [0.5] * 4)
    ]
    assert 0.3 < best_threshold(scores) < 0.5
    thresholds, iou = scores[1].iou_by_threshold()
    assert iou[thresholds < 0.25].tolist() == [0.5] * int((thresholds < 0.25).sum())  # 4 of 8
    assert iou[(thresholds > 0.35) & (thresholds < 0.55)].min() == 1.0
    assert iou[thresholds > 0.65].max() == 0.0


def test_frames_are_some_metres_apart_and_never_the_last() -> None:
    assert _spaced(np.array([0.0, 1.0, 3.0, 5.9, 6.0, 9.5, 12.0]), 3.0) == [0, 2, 4, 5]
    assert _spaced(np.array([0.0, 1.0, 3.0]), 0.75) == [0, 1]
