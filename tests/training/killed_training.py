"""What comes out of a training that was killed and started again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.runner import train
from scene_completion_training.stages import stage_class


class Killed(Exception):
    pass


def resumed_weights(configuration: TrainingConfiguration) -> dict[str, torch.Tensor]:
    """Trains, is killed in step 3, goes on from the checkpoint of step 2, and returns the weights of the end."""
    stage = stage_class(configuration.stage)
    step = stage.training_step

    def killed(self: Any, batch: Any, index: int) -> Any:
        if self.global_step == 3:
            raise Killed
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "training_step", killed)
        with pytest.raises(Killed):
            train(configuration)
    return dict(Checkpoint.read(train(configuration)).state)
