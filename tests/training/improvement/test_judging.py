"""When a new student is accepted, how far it goes, and which frames are scored."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.label_free import LabelFreeScores, Verdict
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_training.improvement.judging import (
    Judgement,
    Mixture,
    _spaced,
    best_share,
    in_words,
    judge_mixtures,
    reasons_against,
)
from tests.inference.small_bundle import make_small_bundle, road_head
from tests.training.improvement.conftest import LOWER_M, make_drive
from tests.training.synthetic_scene import CAMERA_HEIGHT

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


def test_a_better_student_is_accepted_unless_it_forgot_or_saw_too_few_places() -> None:
    assert reasons_against(judged(BAD, GOOD), None, margin=0.01) == []
    assert reasons_against(judged(BAD, GOOD), judged(GOOD, GOOD), margin=0.01) == []
    reasons = reasons_against(judged(BAD, GOOD), judged(GOOD, BAD), margin=0.01)
    assert [reason.partition(":")[0] for reason in reasons] == ["a loss on the old drives is not ruled out"] * 2
    reasons = reasons_against(judged(BAD, GOOD, places=2), None, margin=0.01)
    assert "too few places (2)" in reasons[0]
    assert in_words(judged(BAD, GOOD).comparison("iou")).startswith("iou 0.3333 -> 1.0000, a gain between +0.6667")


def test_frames_are_some_metres_apart_and_never_the_last() -> None:
    assert _spaced(np.array([0.0, 1.0, 3.0, 5.9, 6.0, 9.5, 12.0]), 3.0) == [0, 2, 4, 5]
    assert _spaced(np.array([0.0, 1.0, 3.0]), 0.75) == [0, 1]


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([(0.25, 0.52, 0.60), (0.5, 0.55, 0.595), (1.0, 0.60, 0.50)], 0.5),  # the last one forgot
        ([(0.25, 0.52, 0.60), (0.5, 0.55, 0.60), (1.0, 0.60, 0.60)], 1.0),
        ([(0.25, 0.52, 0.57), (0.5, 0.55, 0.58), (1.0, 0.60, 0.50)], 0.5),  # all forgot
        ([(0.25, 0.52, None), (0.5, 0.51, None), (1.0, 0.40, None)], 0.25),
    ],
)
def test_largest_gain_that_forgets_nothing_wins(tried: list[tuple[float, float, float | None]], best: float) -> None:
    old = Mixture(0.0, 0.5, None if tried[0][2] is None else 0.6)
    assert best_share([old, *(Mixture(*one) for one in tried)], tolerance=0.01) == best


def test_students_are_judged_on_both_kinds_of_drives(tmp_path: Path) -> None:
    """One student knows the road, the other says the opposite everywhere."""
    drive = make_drive(tmp_path / "drive", aside=0.0, frames=5)
    drive.save(tmp_path / "recording")
    head = road_head(road_below_camera=CAMERA_HEIGHT - LOWER_M)
    opposite = dataclasses.replace(head, density_weight=-head.density_weight, density_bias=-head.density_bias)
    students = {
        0.0: make_small_bundle(tmp_path / "knows", head=head),
        1.0: make_small_bundle(tmp_path / "wrong", head=opposite),
    }
    knows, wrong = judge_mixtures(students, [tmp_path / "recording"], [tmp_path / "recording"], threads=1)
    assert (knows.share, wrong.share) == (0.0, 1.0)
    assert knows.replayed == knows.new > wrong.new == wrong.replayed
