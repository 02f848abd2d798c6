"""What a single-view field keeps of samples that come again."""

import dataclasses
from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import LossWeights
from scene_completion_training.runner import train
from scene_completion_training.stages.completion import read_eyes
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.stages.student import StudentConfiguration
from scene_completion_training.stages.teacher import TeacherConfiguration
from tests.training.foundation.tiny_models import saved_depth_model
from tests.training.small_trainings import HIDDEN, small_data, small_training


def test_maps_that_are_kept_change_nothing(synthetic_drive: Path, tmp_path: Path) -> None:
    """Eyes, as training/configs/eyes.yaml trains them: part of what they compute never changes."""
    model = saved_depth_model(tmp_path / "model")
    values: dict[str, object] = {
        "encoder": "depth_anything",
        "encoder_weights": str(model),
        "frozen_blocks": 3,
        "pretrained": True,
        "data": dataclasses.replace(small_data(synthetic_drive), distinct_samples=2),
        "losses": LossWeights(photometric=0.0, smoothness=0.0, stereo_depth=0.0, emptiness=0.1),
        "hidden": HIDDEN,
    }
    found = {}
    for kept in (False, True):
        settings = small_training(synthetic_drive, tmp_path / str(kept), keep_maps=kept, **values)
        checkpoint = train(SingleViewConfiguration(**settings))
        found[kept] = Checkpoint.read(checkpoint).state
    for name, value in found[False].items():
        torch.testing.assert_close(found[True][name], value, atol=2e-3, rtol=2e-2)  # they are float16
    files = {path.name for path in (tmp_path / "True" / "kept_maps").iterdir()}
    assert files == {"made_from.txt", "map_0.safetensors", "map_1.safetensors"}
    encoder, _, _ = read_eyes(str(checkpoint), str(model), Checkpoint.read(checkpoint).viewpoint)  # of street.yaml
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, found[True][f"encoder.{name}"], msg=name)


def test_what_cannot_be_is_refused(synthetic_drive: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(small_data(synthetic_drive), distinct_samples=2)

    def refused(match: str, kind: type = SingleViewConfiguration, **changes: object) -> None:
        with pytest.raises(ConfigurationError, match=match):
            kind(**small_training(synthetic_drive, tmp_path, **{"data": data, **changes})).check()

    refused("no sample comes again", keep_maps=True, data=small_data(synthetic_drive))
    refused("half the size", keep_maps=True, half_resolution_steps=2)
    refused("only one process", keep_maps=True, devices=2)
    for kind in (TeacherConfiguration, StudentConfiguration):
        refused(f"stage {kind.stage} keeps none", kind, keep_maps=True)
    for wrong in ({"covered": -1}, {"covered": 96}, {"aside": 1.5}, {"aside": float("nan")}):
        views = dataclasses.replace(data.views, **wrong)
        refused("fewer rows than half", data=dataclasses.replace(data, views=views))
    settings = small_training(synthetic_drive, tmp_path / "none", keep_maps=True, data=data)
    with pytest.raises(ConfigurationError, match="says nothing that stays"):
        train(SingleViewConfiguration(**settings))
