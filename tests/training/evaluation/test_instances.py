"""Things: which are found, and their average precision, worked by hand."""

from functools import partial

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.evaluation.instances import (
    Instances,
    InstanceTally,
    Thing,
    fit_instances,
    grouped,
    instance_precision,
    matched,
    true_things,
    without_stuff,
)
from scene_completion_training.evaluation.probes import Levels, PointMethod, labelled_points, offsets
from scene_completion_training.points.scene import PointScene
from tests.training.points.rooms import CLASSES, room


def thing(first: int, last: int, score: float = 1.0, label: int = 0) -> Thing:
    return Thing(label, score, np.arange(first, last))


def test_matches_worked_by_hand() -> None:
    """Two things of 200 points, one of 50, and 550 points of no thing."""
    true = [thing(0, 200), thing(200, 400), thing(400, 450)]
    found = [
        thing(0, 150, 0.9),  # 150 / 200: right at both
        thing(50, 200, 0.8),  # the same thing, less sure: wrong at both
        thing(330, 400, 0.7),  # 70 / 200 of the second: right at 25 %, wrong at 50 %
        thing(400, 450, 0.6),  # the small one, that does not count: nothing
        thing(500, 600, 0.5),  # nothing is known there: nothing
        thing(180, 340, 0.4),  # 140 / 220 of the second: the surer one has it at 25 %, right at 50 %
    ]
    answer = Instances(found, true, 1000)
    assert matched(answer, 0, 0.25) == ([0.9, 0.8, 0.7, 0.4], [True, False, True, False], 0)
    assert matched(answer, 0, 0.5) == ([0.9, 0.8, 0.4, 0.7], [True, False, True, False], 0)
    assert matched(Instances(found[4:5], true, 1000), 0, 0.5) == ([], [], 2)
    other = Instances([thing(0, 200, 0.3, label=1)], true, 1000)
    assert matched(other, 1, 0.5) == ([0.3], [False], 0)  # a thing of another class is no excuse
    assert matched(other, 2, 0.5) == ([], [], 0)


def test_average_precision_worked_by_hand() -> None:
    """Surest first: right, wrong, right; one more is missed, so three are true.

    From all to none the curve has recall 2/3, 1/3, 1/3, 0 and precision 2/3, 1/2, 1, 1. Each precision weighs half of
    the recall between its neighbours: (2/3 - 1/3) / 2, (2/3 - 1/3) / 2, (1/3 - 0) / 2, (1/3 - 0) / 2.
    """
    expected = (2 / 3 + 1 / 2 + 1 + 1) / 6
    assert instance_precision([0.9, 0.5, 0.1], [True, False, True], 1) == pytest.approx(expected)
    assert instance_precision([0.9], [True], 0) == pytest.approx(1.0)
    assert instance_precision([0.9], [False], 1) == 0.0 == instance_precision([], [], 1)
    assert np.isnan(instance_precision([0.9], [False], 0))
    # Equal scores are one point of the curve: recall 1, 0, precision 1/2, 1, weights 1/2 and 1/2.
    assert instance_precision([0.5, 0.5], [True, False], 0) == pytest.approx(0.75)


def test_groups_are_chains_of_neighbours() -> None:
    line = np.stack([np.arange(20) * 0.08, np.zeros(20), np.zeros(20)], axis=1)
    groups = grouped(np.concatenate([line, line + [0.0, 1.0, 0.0], [[5.0, 5.0, 5.0]]]))
    assert [len(set(groups[part])) for part in (slice(20), slice(20, 40))] == [1, 1] and len(set(groups)) == 3
    assert grouped(np.zeros((0, 3))).shape == (0,)


def told(scene: PointScene, rows: np.ndarray | None) -> Levels:
    """Features that say what a point is, and where the middle of its thing lies."""
    chosen = slice(None) if rows is None else rows
    assert scene.label is not None
    return np.eye(len(CLASSES))[scene.label][chosen], np.nan_to_num(offsets(scene))[chosen]


def test_things_are_found_where_features_tell_them_apart() -> None:
    """The heads are linear, and so perfect here; the score of a scene without any of a class is no figure."""
    scenes = {str(seed): without_stuff(partial(room, seed, step=0.07), ["wall", "floor"]) for seed in (3, 4)}
    labelled = labelled_points(PointMethod("told", told), scenes, 1000, seed=0)
    head = fit_instances("told", labelled, CLASSES, seed=0, steps=100)
    assert head.countable == (2, 3, 4)
    tally = InstanceTally(CLASSES)
    for scene in scenes.values():
        tally.add(Instances(head.things(scene.points, told(scene, None)), [*true_things(scene).values()], len(scene)))
    (row,) = tally.rows()
    assert row["ap50"] > 0.9 and row["ap25"] >= row["ap50"]
    assert np.isnan(row["class_ap50"]["floor"]) and row["class_ap50"]["chair"] == pytest.approx(1.0)
    without = {name: without_stuff(lambda scene=scene: scene, CLASSES) for name, scene in scenes.items()}
    with pytest.raises(ConfigurationError, match="no point is of a thing"):
        fit_instances("none", labelled_points(PointMethod("told", told), without, 50, seed=0), CLASSES, seed=0, steps=1)
