from __future__ import annotations

import json

import pytest

from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.semantic_evaluation import FittedModel, score
from scene_completion_training.evaluation.semantic_tables import as_json, markdown
from tests.training.evaluation.painted import CAR


def test_tables_and_json_say_the_same(street: PosedSequence, fitted: FittedModel) -> None:
    results = {("towns", fitted.name): (fitted, score([fitted], [street])[0])}
    text = markdown(results)
    assert (
        "| painted wall | 6.7 / 6.7 / 6.7 | 100.0 / 100.0 / 100.0 | 100.0 / 100.0 / 100.0 | 100.0 / 100.0 / 100.0 |"
        in text
    )
    content = json.loads(json.dumps(as_json(results, {"seed": 0}), allow_nan=False))
    (entry,) = [e for e in content["scores"] if (e["naming"], e["range_m"]) == ("majority", 51.2)]
    assert entry["mean_iou"] == pytest.approx(1 / 15) and entry["class_of_label"] == [0, CAR, CAR]
    assert entry["class_iou"]["road"] is None
