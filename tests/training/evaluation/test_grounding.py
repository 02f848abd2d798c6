"""Sentences about things: overlaps and accuracies worked by hand, and relations that a head can learn."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.evaluation.instances import (
    Grounded,
    GroundingTally,
    asked,
    box_overlap,
    described,
    fit_grounding,
    read_phrases,
)
from tests.training.evaluation.test_instances import told
from tests.training.points.rooms import CLASSES, room


def test_overlaps_of_boxes_worked_by_hand() -> None:
    """Cubes of edge 2, one shifted by 1 along x: 4 of 12; one apart; one without volume."""
    cube = np.array([0, 0, 0, 2, 2, 2.0])
    others = cube + np.array([[0, 0, 0], [1, 0, 0], [0, 3, 0]])[:, [0, 1, 2, 0, 1, 2]]
    assert box_overlap(cube, others).tolist() == [1.0, pytest.approx(1 / 3), 0.0]
    assert box_overlap(cube, np.array([0, 0, 0, 2, 2, 0.0])) == 0.0


def test_accuracies_worked_by_hand() -> None:
    tally = GroundingTally()
    tally.add(Grounded(np.array([0.6, 0.3, 0.1]), np.array([True, True, False])))
    tally.add(Grounded(np.array([0.5]), np.array([False])))
    rows = {row["things"]: (row["sentences"], row["accuracy25"], row["accuracy50"]) for row in tally.rows()}
    assert rows == {"unique": (2, 1.0, 0.5), "multiple": (2, 0.5, 0.5), "overall": (4, 0.75, 0.5)}


def test_neighbours_are_described_by_nearness() -> None:
    """Things 1 m and 2 m from the first: their features count as e and 1 towards its neighbourhood."""
    boxes = np.array([[x, 0, 0, x + 1, 1, 2] for x in (0, 1, 2)], np.float32)
    found = described(boxes, np.eye(3, dtype=np.float32))
    share = np.e / (np.e + 1.0)
    np.testing.assert_allclose(found[0], [1, 0, 0, 0, share, 1 - share, -1, 0, 0, 1, 1, 2], atol=1e-6)


def words(texts: Sequence[str]) -> torch.Tensor:
    """An encoder that knows which words are there, and nothing else."""
    known = ("table", "chair", "cabinet", "left", "right")
    return torch.tensor([[float(word in text) for word in known] for text in texts])


def sentences(file: Path, seeds: range) -> Path:
    """Of each room, sentences that name the class of a thing, and whether it is the one of least or most x."""
    entries = []
    for seed in seeds:
        scene = room(seed, step=0.2)
        assert scene.instance is not None
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
    learned, tested = (read_phrases(sentences(tmp_path / "one.json", seeds)) for seeds in (range(24), range(24, 32)))
    scenes = {f"room {seed}": room(seed, step=0.2) for seed in range(32)}
    questions = [asked(scenes[name], told(scenes[name], None), phrases) for name, phrases in learned.items()]
    head = fit_grounding("told", questions, words, seed=0)
    tally = GroundingTally()
    for name, phrases in tested.items():
        question = asked(scenes[name], told(scenes[name], None), phrases)
        assert not question.unique.any()
        tally.add(head.answers(question, words))
    with pytest.raises(SequenceError, match="room 1: has no thing 9, which a sentence is about"):
        asked(scenes["room 1"], told(scenes["room 1"], None), [("the ninth", 9)])
    rows = {row["things"]: row for row in tally.rows()}
    assert rows["overall"]["accuracy50"] > 0.6 and rows["overall"]["sentences"] == 48
    assert np.isnan(rows["unique"]["accuracy25"])
    nothing = dataclasses.replace(question, boxes=np.zeros((0, 6), np.float32), described=np.zeros((0, 3), np.float32))
    assert head.answers(nothing, words).overlap.tolist() == [0.0] * 6  # what is not found counts as a miss
    with pytest.raises(ConfigurationError, match="no sentence is about a thing"):
        fit_grounding("told", [nothing], words, seed=0)


def test_what_is_no_list_of_sentences_is_refused(tmp_path: Path) -> None:
    for entry in ({"scene_id": "a"}, {"scene_id": "a", "object_id": "x", "description": "b"}, 3):
        (tmp_path / "a.json").write_text(json.dumps([entry]))
        with pytest.raises(SequenceError, match="entry 0 is no sentence about a thing"):
            read_phrases(tmp_path / "a.json")
