"""Things, and sentences about them: what is found, scores worked by hand, and relations that a head can learn."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.evaluation import instances, probes
from scene_completion_training.evaluation.probes import Levels, PointMethod, labelled_points, offsets
from scene_completion_training.points.opening import Scenes
from scene_completion_training.points.scene import PointScene
from tests.training.points.rooms import CLASSES, room


def thing(first: int, last: int, score: float = 1.0, label: int = 0) -> instances.Thing:
    return instances.Thing(label, score, np.arange(first, last))


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
    answer = instances.Instances(found, true, 1000)
    assert instances.matched(answer, 0, 0.25) == ([0.9, 0.8, 0.7, 0.4], [True, False, True, False], 0)
    assert instances.matched(answer, 0, 0.5) == ([0.9, 0.8, 0.4, 0.7], [True, False, True, False], 0)
    assert instances.matched(instances.Instances(found[4:5], true, 1000), 0, 0.5) == ([], [], 2)
    other = instances.Instances([thing(0, 200, 0.3, label=1)], true, 1000)
    assert instances.matched(other, 1, 0.5) == ([0.3], [False], 0)  # a thing of another class is no excuse
    assert instances.matched(other, 2, 0.5) == ([], [], 0)


def test_average_precision_worked_by_hand() -> None:
    """Surest first: right, wrong, right; one more is missed, so three are true.

    From all to none the curve has recall 2/3, 1/3, 1/3, 0 and precision 2/3, 1/2, 1, 1. Each precision weighs half of
    the recall between its neighbours: (2/3 - 1/3) / 2, (2/3 - 1/3) / 2, (1/3 - 0) / 2, (1/3 - 0) / 2.
    """
    expected = (2 / 3 + 1 / 2 + 1 + 1) / 6
    assert instances.instance_precision([0.9, 0.5, 0.1], [True, False, True], 1) == pytest.approx(expected)
    assert instances.instance_precision([0.9], [True], 0) == pytest.approx(1.0)
    assert instances.instance_precision([0.9], [False], 1) == 0.0 == instances.instance_precision([], [], 1)
    assert np.isnan(instances.instance_precision([0.9], [False], 0))
    # Equal scores are one point of the curve: recall 1, 0, precision 1/2, 1, weights 1/2 and 1/2.
    assert instances.instance_precision([0.5, 0.5], [True, False], 0) == pytest.approx(0.75)


def exact(scene: PointScene, rows: np.ndarray | None) -> Levels:
    """Features that are the class of a point, and where the middle of its thing lies."""
    chosen = slice(None) if rows is None else rows
    return np.eye(len(CLASSES))[scene.label][chosen], np.nan_to_num(offsets(scene))[chosen]


def test_things_are_found_where_features_distinguish_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads are linear, and so perfect here; the score of a scene without any of a class is no figure."""
    read = {str(seed): partial(room, seed, step=0.07) for seed in (3, 4)}
    scenes = list(instances.without_stuff(Scenes("PLY", CLASSES, read)).values())
    monkeypatch.setattr(probes, "PROBE_STEPS", 100)
    labelled = labelled_points(PointMethod("exact", exact), scenes, 1000)
    head = instances.fit_instances("exact", labelled)
    assert head.countable == (2, 3, 4)
    tally = instances.InstanceTally(CLASSES)
    for scene in scenes:
        true, found = [*instances.true_things(scene).values()], head.things(scene.points, exact(scene, None))
        tally.add(instances.Instances(found, true, len(scene)))
    (row,) = tally.rows()
    assert row["ap50"] > 0.9 and row["ap25"] >= row["ap50"]
    assert np.isnan(row["class_ap50"]["floor"]) and row["class_ap50"]["chair"] == pytest.approx(1.0)
    without = [dataclasses.replace(scene, instance=None) for scene in scenes]
    with pytest.raises(ConfigurationError, match="no point is of a thing"):
        instances.fit_instances("none", labelled_points(PointMethod("exact", exact), without, 50))


def test_overlaps_of_boxes_worked_by_hand() -> None:
    """Cubes of edge 2, one shifted by 1 along x: 4 of 12; one apart; one without volume."""
    cube = np.array([0, 0, 0, 2, 2, 2.0])
    others = cube + np.array([[0, 0, 0], [1, 0, 0], [0, 3, 0]])[:, [0, 1, 2, 0, 1, 2]]
    assert instances.box_overlap(cube, others).tolist() == [1.0, pytest.approx(1 / 3), 0.0]
    assert instances.box_overlap(cube, np.array([0, 0, 0, 2, 2, 0.0])) == 0.0


def test_accuracies_worked_by_hand() -> None:
    tally = instances.GroundingTally()
    tally.add(instances.Grounded(np.array([0.6, 0.3, 0.1]), np.array([True, True, False])))
    tally.add(instances.Grounded(np.array([0.5]), np.array([False])))
    rows = {row["things"]: (row["sentences"], row["accuracy25"], row["accuracy50"]) for row in tally.rows()}
    assert rows == {"unique": (2, 1.0, 0.5), "multiple": (2, 0.5, 0.5), "overall": (4, 0.75, 0.5)}


def words(texts: Sequence[str]) -> torch.Tensor:
    """An encoder of a few words, whose order does not matter."""
    known = ("table", "chair", "cabinet", "left", "right")
    return torch.tensor([[float(word in text) for word in known] for text in texts])


def sentences(file: Path, seeds: range) -> Path:
    """Of each room, sentences that name the class of a thing, and whether it is the one of least or most x."""
    entries = []
    for seed in seeds:
        scene = room(seed, step=0.2)
        for label in (2, 3, 4):
            pair = [label - 2, label + 1]
            middle = [scene.points[scene.instance == number][:, 0].mean() for number in pair]
            for side, number in zip(("left", "right"), np.array(pair)[np.argsort(middle)].tolist(), strict=True):
                text = f"the {CLASSES[label]} on the {side}"
                entries.append({"scene_id": scene.name, "object_id": str(number), "description": text})
    file.write_text(json.dumps(entries))
    return file


def test_a_head_learns_what_sentences_mean(tmp_path: Path) -> None:
    """By class alone half of them would be right: each room has two things of a class."""
    learned, tested = (
        instances.read_phrases(sentences(tmp_path / "one.json", seeds)) for seeds in (range(24), range(24, 32))
    )
    scenes = {f"room {seed}": room(seed, step=0.2) for seed in range(32)}
    questions = [instances.asked(scenes[name], exact(scenes[name], None), phrases) for name, phrases in learned.items()]
    head = instances.fit_grounding("exact", questions, words)
    tally = instances.GroundingTally()
    for name, phrases in tested.items():
        question = instances.asked(scenes[name], exact(scenes[name], None), phrases)
        assert not question.unique.any()
        tally.add(head.answers(question, words))
    with pytest.raises(SequenceError, match="room 1: has no thing 9, which a sentence is about"):
        instances.asked(scenes["room 1"], exact(scenes["room 1"], None), [("the ninth", 9)])
    rows = {row["things"]: row for row in tally.rows()}
    assert rows["overall"]["accuracy50"] > 0.6 and rows["overall"]["sentences"] == 48
    assert np.isnan(rows["unique"]["accuracy25"])
    nothing = dataclasses.replace(question, boxes=np.zeros((0, 6), np.float32), described=np.zeros((0, 3), np.float32))
    assert head.answers(nothing, words).overlap.tolist() == [0.0] * 6  # what is not found counts as a miss
    with pytest.raises(ConfigurationError, match="no sentence is about a thing"):
        instances.fit_grounding("exact", [nothing], words)


def test_sentences_are_made_where_they_tell_things_apart() -> None:
    """Two chairs at a table, one at a sofa, and a lamp of too few points."""
    classes, where = ("table", "chair", "sofa", "lamp"), ((0, 0.0), (1, 1.0), (1, -1.0), (1, 5.0), (2, 6.0), (3, 2.0))
    counts = [200] * 5 + [5]
    points = np.concatenate([np.tile([x, 0.0, 0.0], (count, 1)) for (_, x), count in zip(where, counts, strict=True)])
    label, number = (np.repeat(of, counts) for of in ([label for label, _ in where], np.arange(6)))
    scene = PointScene("made", points.astype(np.float32), label=label, instance=number, classes=classes)
    assert instances.made_phrases(scene) == [("the table", 0), ("the chair next to the sofa", 3), ("the sofa", 4)]


def test_what_is_no_list_of_sentences_is_refused(tmp_path: Path) -> None:
    for entry in ({"scene_id": "a"}, {"scene_id": "a", "object_id": "x", "description": "b"}, 3):
        (tmp_path / "a.json").write_text(json.dumps([entry]))
        with pytest.raises(SequenceError, match="entry 0 is no sentence about a thing"):
            instances.read_phrases(tmp_path / "a.json")
