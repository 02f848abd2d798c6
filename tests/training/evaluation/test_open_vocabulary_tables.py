"""Tables of words and labels: what stands where, means and spreads over seeds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.linear_probe import LinearProbe
from scene_completion_training.evaluation.open_vocabulary import SEMANTIC_KITTI, ModelScores, ZeroShot, evaluate_models
from scene_completion_training.evaluation.open_vocabulary_tables import MethodScores, as_json, markdown, over_seeds
from tests.training.evaluation.test_open_vocabulary import ALL, BANK, WORDS, Painted

NAME = "the 19 classes of SemanticKITTI"


def scores(street: PosedSequence, **changes: object) -> ModelScores:
    return evaluate_models(
        [(Painted(**changes), ZeroShot(BANK, SEMANTIC_KITTI, WORDS))], [street], SEMANTIC_KITTI, 0.5
    )[0]


def test_over_seeds() -> None:
    assert over_seeds([1.0, 3.0]) == {"mean": 2.0, "deviation": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert over_seeds([1.0]) == {"mean": 1.0, "deviation": None, "values": [1.0]}
    assert over_seeds([math.nan, 4.0]) == {"mean": 4.0, "deviation": None, "values": [None, 4.0]}
    assert over_seeds([math.nan]) == {"mean": None, "deviation": None, "values": [None]}


def test_seeds_have_mean_and_spread(street: PosedSequence) -> None:
    """One knows the whole wall, one nothing: the left 40 % are a car for the first."""
    seeds = [scores(street), scores(street, knows=lambda points: np.zeros(len(points), bool))]
    own = MethodScores("towns", NAME, "mine", seeds, WORDS)
    prior = MethodScores("towns", NAME, "another", seeds[:1], WORDS)
    whole = seeds[0].given[ALL].mean_iou
    text = markdown([own, prior])
    spread = f"{100 * whole / 2:.1f} ± {100 * whole / 2**0.5:.1f}"
    lines = [line for line in text.splitlines() if line.startswith("| mine ")]
    assert spread in lines[0] and "50.0 ± 70.7" in lines[0]  # half of all voxels without a feature
    assert any(line.startswith("| another ") and "±" not in line for line in text.splitlines())
    assert "| automobile | car | 100.0 | 100.0 ± 0.0 | 100.0 |" in text
    assert "| house |" not in text  # there is none
    assert "mean ± sample standard deviation over seeds" in text
    content = json.loads(json.dumps(as_json([own, prior], {"seed": 0}), allow_nan=False))
    (entry,) = (
        e for e in content["scores"] if (e["method"], e["setting"], e["range_m"], e["region"])
        == ("mine", "given geometry", 51.2, "all")
    )  # fmt: skip
    assert entry["seeds"] == 2 and entry["classes"] == NAME
    assert entry["scores"]["mean_iou"]["values"] == [whole, 0.0]
    assert entry["scores"]["class_iou"]["car"]["mean"] == pytest.approx(whole / 2)
    assert entry["scores"]["class_iou"]["truck"]["mean"] is None
    words = [e for e in content["scores"] if e["setting"] == "word" and e["word"] == "automobile"]
    assert words and all(e["means"] == ["car"] for e in words)
    assert {e["setting"] for e in content["scores"]} == {"given geometry", "completion", "word"}


def test_a_probe_is_asked_for_no_words(street: PosedSequence) -> None:
    probe = LinearProbe(np.eye(19, 3, dtype=np.float32), np.zeros(19, np.float32), {})
    found = evaluate_models([(Painted(), probe)], [street], SEMANTIC_KITTI, 0.5)[0]
    text = markdown([MethodScores("towns", NAME, "probe", [found], {})])
    assert "average precision" not in text and "| probe |" in text
    asked = MethodScores("towns", NAME, "a", [scores(street)], WORDS)
    assert "| word | means | prior | a |" in markdown([MethodScores("towns", NAME, "probe", [found], {}), asked])
