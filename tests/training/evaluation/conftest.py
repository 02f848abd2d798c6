"""What several tests of evaluations look at."""

from pathlib import Path

import pytest

from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.semantic_evaluation import FittedModel
from tests.training.evaluation.one_wall import PaintedWall, fit


@pytest.fixture(scope="module")
def fitted(street: PosedSequence) -> FittedModel:
    return fit([PaintedWall()], street)[0]


@pytest.fixture(scope="module")
def window(shared_data: Path) -> PosedSequence:
    return open_recording(shared_data / "kitti_windows" / "sequences" / "06")
