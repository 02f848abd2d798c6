"""What a single-view field keeps of what its training started from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.configuration import LossWeights
from scene_completion_training.data.module import SequencesData
from scene_completion_training.stages.single_view import SingleViewConfiguration, SingleViewStage
from tests.training.small_trainings import HIDDEN, batches, small_data, small_training

RETAINED = LossWeights(retention=10.0)


def settings_of(drive: Path, output: Path, start_from: Path | None, losses: LossWeights) -> SingleViewConfiguration:
    start = None if start_from is None else str(start_from)
    values = small_training(drive, output, hidden=HIDDEN, start_from=start, losses=losses, learning_rate=1e-3)
    return SingleViewConfiguration(**values)


@pytest.fixture
def stage(synthetic_drive: Path, student: Path, tmp_path: Path) -> SingleViewStage:
    """A training that has started from a student."""
    made = SingleViewStage(settings_of(synthetic_drive, tmp_path, student, RETAINED).completed())
    made.start(SequencesData(small_data(synthetic_drive), 1, 0))
    return made.eval()


def retention(stage: SingleViewStage, batch: dict[str, Tensor]) -> float:
    with torch.no_grad():
        return float(stage.terms(batch, torch.Generator().manual_seed(0))["retention"])


def test_what_is_hidden_is_held_to_what_the_student_said(synthetic_drive: Path, stage: SingleViewStage) -> None:
    (batch,) = batches(small_data(synthetic_drive), 1)
    hidden, unknown, shown = ({**batch, "hint": torch.full_like(batch["hint"], depth)} for depth in (0.5, 0.0, 1e4))
    assert retention(stage, hidden) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        stage.field.density_layer.weight.mul_(3.0)
        stage.link.offset.add_(1.0)
    assert retention(stage, hidden) > 0.01
    assert retention(stage, unknown) == pytest.approx(retention(stage, hidden), rel=1e-4)
    assert retention(stage, shown) == 0.0


def test_there_must_be_something_to_remember(synthetic_drive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none is named"):
        settings_of(synthetic_drive, tmp_path, None, RETAINED).check()
