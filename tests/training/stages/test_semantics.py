"""Semantics: they learn on a trained field, which stays as it is."""

from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages import semantics
from scene_completion_training.stages.semantics import SemanticsConfiguration, SemanticsStage
from tests.training.small_trainings import DIMENSION, HIDDEN, small_training


@pytest.mark.parametrize("forces", ["estimated", "kitti_360"])
def test_semantics_train_on_a_frozen_field(synthetic_drive: Path, trained: Path, tmp_path: Path, forces: str) -> None:
    configuration = SemanticsConfiguration(
        **small_training(synthetic_drive, tmp_path / "run", steps=6, half_resolution_steps=0),
        features_from=str(trained), forces=forces, crop_points=16,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # A field of four steps says nothing of what is occupied: call all of it so.
        patch.setattr(SemanticsStage, "occupied", lambda stage, logit: torch.ones_like(logit, dtype=torch.bool))
        patch.setattr(semantics, "BUFFER", 8)
        patch.setattr(semantics, "BINS", 3)
        patch.setattr(semantics, "APART_M", 0.5)
        checkpoint = train(configuration)
    content = torch.load(checkpoint, weights_only=True)["state_dict"]
    before, after = Checkpoint.read(trained), Checkpoint.read(checkpoint)
    # Whatever its configuration says, it looks through the field that it was given.
    assert after.half_resolution and after.field_of(FeatureField).density.hidden == HIDDEN
    head = after.distillation_head()
    assert head is not None and head.linear.in_features == DIMENSION
    for name, value in before.state.items():
        assert torch.equal(content[f"field.{name}"], value), name
    assert int(content["buffer.filled"]) == 8
    assert torch.isnan(content["forces_values"]).all() == (forces == "kitti_360")
    assert content["link.offset"].item() == pytest.approx(before.link["offset"].item())
    stage = make_stage(configuration)
    assert isinstance(stage, SemanticsStage) and isinstance(stage.field, FeatureField)
    fresh = {name: value for name, value in stage.state_dict().items() if name.startswith("head.")}
    assert any(not torch.equal(content[name], value) for name, value in fresh.items())


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="features_from: no feature field"):
        make_stage(SemanticsConfiguration())
