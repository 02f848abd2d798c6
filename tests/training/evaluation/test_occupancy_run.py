"""Which recordings and frames of them are scored, and how the scores are told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.occupancy import OccupancyScores
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.controls import EmptyControl, surface_controls
from scene_completion_training.evaluation.exact_evaluation import ExactResult
from scene_completion_training.evaluation.occupancy_run import (
    RunSettings,
    as_json,
    comparison,
    evaluate,
    lidar_frames,
    markdown,
)
from tests.training.evaluation.one_wall import Wall, make_street


def test_frames_that_have_all_scans_ahead(street: PosedSequence) -> None:
    assert list(lidar_frames(street, RunSettings(scans=4, every=2))) == [0, 2, 4, 6]  # frame 6 has scans 6..9
    assert list(lidar_frames(street, RunSettings(scans=20, every=2))) == [0]
    assert list(lidar_frames(replace(street, rig_from_sensor={}), RunSettings(scans=4))) == []


def test_a_recording_without_any_truth_is_refused(street: PosedSequence) -> None:
    with pytest.raises(SequenceError, match="no frame"):
        evaluate([make_street(assets=())], lambda sequence: [Wall()], RunSettings())


def test_tables_flag_an_empty_win(street: PosedSequence) -> None:
    models = [Wall(), EmptyControl()]
    result = evaluate([street], lambda sequence: [*models, *surface_controls(sequence)], RunSettings(scans=10))
    text = markdown(result, ["wall"])
    assert "O_acc@10" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| nothing | σ > 0.5 | 100.0")]
    assert row.split("|")[3:9] == [" 100.0 ", " – ", " – ", " – ", " – ", " – "]
    assert "no occluded point: O_acc says nothing" in row
    assert "| 12800 | 0 | 0 | 0 | 0 |" in row
    content = json.loads(json.dumps(as_json(result, {"scans": 10}), allow_nan=False))
    (entry,) = [e for e in content["lidar"] if e["method"] == "nothing" and e["protocol"] == "original"]
    assert (entry["O_acc@10"], entry["IE_acc@10"], entry["frames_defined"]["IE_acc"]) == (1.0, None, 0)
    assert (entry["points"], entry["occluded"], entry["occluded_free"]) == (12_800, 0, 0)
    assert content["exact"]["frames"] == 1


def test_models_are_compared_with_the_best_control() -> None:
    def cells(iou: float) -> dict[tuple[float, str], OccupancyScores]:
        return {(51.2, "occluded"): OccupancyScores(9, 0.1, iou, 0.5, 0.5, iou, 0.5, 0.5)}

    rule = "σ > 0.5"
    voxels = {("a", rule): cells(0.3), ("b", rule): cells(0.1), ("thick", rule): cells(0.2), ("none", rule): cells(0.0)}
    lines = comparison(ExactResult(1, voxels, {}), ["a", "b"]).splitlines()
    assert lines[-2:] == [
        "| a | σ > 0.5 | 30.0 ahead of 20.0 (thick) |",
        "| b | σ > 0.5 | 10.0 **behind** 20.0 (thick) |",
    ]
