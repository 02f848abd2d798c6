"""What a resumed training is compared with."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_training.record import KEY, TrainingRecord
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.viewpoint import VolumeSettings


def resume(before: dict[str, Any], **changes: Any) -> None:
    configuration = dataclasses.asdict(SingleViewConfiguration(**changes).completed())
    record = TrainingRecord(configuration, SimpleNamespace())  # type: ignore[arg-type]
    record.on_load_checkpoint(None, None, {KEY: {"configuration": before}})  # type: ignore[arg-type]


def test_a_training_of_before_there_was_a_choice_has_the_streets_volume() -> None:
    before = {"stage": "single_view", "steps": 10_000}
    resume(before)
    with pytest.raises(SequenceError, match="other values of .*'camera', 'volume'"):
        resume(before, volume=VolumeSettings(near=2.0))
    with pytest.raises(SequenceError, match="other values of .'steps'"):
        resume(before, steps=20_000)
