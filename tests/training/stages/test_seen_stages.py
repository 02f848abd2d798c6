"""Trainings of pixels and cells before their first step: what they start from, and what they refuse."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers

from scene_completion_ros.errors import BundleError
from scene_completion_training.checkpoints import KEY, Checkpoint
from scene_completion_training.runner import make_stage
from scene_completion_training.stage import Stage
from scene_completion_training.stages.completion import CompletionStage
from scene_completion_training.stages.pixels import trained_trunk
from tests.training.foundation.tiny_models import saved_depth_model
from tests.training.stages.test_completion import CAMERA, VOLUME, Settings, configured


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network of Depth Anything."""
    return saved_depth_model(tmp_path_factory.mktemp("depth") / "tiny")


@pytest.fixture
def settings(trunk: Path, tmp_path: Path) -> Settings:
    """Makes trainings with recordings that are not there: what prepares data fails."""
    recording, output = tmp_path / "nothing", tmp_path / "run"
    return partial(configured, recording, output, encoder_weights=str(trunk), camera=CAMERA, volume=VOLUME)


def saved(stage: Stage, file: Path) -> str:
    """A checkpoint as after all steps of a stage, with the weights that it has now."""
    configuration = dataclasses.asdict(stage.settings) | stage.remembered()
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": stage.state_dict(), "global_step": stage.settings.steps}
    torch.save(content | {KEY: {"configuration": configuration}}, file)
    return str(file)


@pytest.fixture
def pixels(settings: Settings, tmp_path: Path) -> str:
    """Checkpoint of stage `pixels`, whose trunk is unlike the published one."""
    stage = make_stage(settings().parts()["pixels"])
    with torch.no_grad():
        for value in stage.trunk.neck.parameters():
            value.add_(0.1)
    return saved(stage, tmp_path / "pixels.ckpt")


def test_cells_are_completed_from_the_trunk_that_is_exported(
    settings: Settings, pixels: str, trunk: Path, tmp_path: Path
) -> None:
    """The weights of a checkpoint are whole: of its model there need be the description alone, and no other one."""
    described = shutil.copytree(trunk, tmp_path / "described", ignore=shutil.ignore_patterns("*.safetensors"))
    stage = CompletionStage(settings(pixels_from=pixels, encoder_weights=str(described)))
    exported = trained_trunk(Checkpoint.read(Path(pixels))).state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in stage.trunk.state_dict().items())
    config = transformers.DepthAnythingConfig.from_pretrained(trunk, fusion_hidden_size=20)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path / "other")
    with pytest.raises(BundleError, match=r"(?s)has no trunk of .*other .*encoder_weights of its training"):
        CompletionStage(settings(pixels_from=pixels, encoder_weights=str(tmp_path / "other")))
