"""The teacher: how many views it needs, what it starts from, what it is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.export import export_bundle, head_weights
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.teacher import TeacherConfiguration
from tests.training.small_trainings import small_training


def test_a_teacher_of_one_view_needs_no_others(synthetic_drive: Path, tmp_path: Path) -> None:
    settings = small_training(synthetic_drive, tmp_path / "one", hidden=48, steps=2)
    field = Checkpoint.read(train(TeacherConfiguration(encoder_views=1, **settings))).field_of(MultiViewField)
    assert field.fusion.feature_layer.out_channels == 48


def test_a_teacher_is_not_deployed(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="stage is teacher"):
        export_bundle(teacher, tmp_path / "bundle", name="t", licence="none", provenance={})


def test_training_can_go_on_from_the_shipped_student(tmp_path: Path) -> None:
    bundle = StudentBundle.load(DEFAULT_BUNDLE)
    stage = make_stage(read_configuration(CONFIGS / "single_view.yaml", ["pretrained=false"], Configuration))
    assert isinstance(stage.field, DensityField) and bundle.folder is not None
    stage.load(str(bundle.folder))
    np.testing.assert_allclose(
        head_weights(stage.field).positional_weight, bundle.head.positional_weight, rtol=1e-3, atol=1e-4
    )
    teacher = make_stage(TeacherConfiguration(pretrained=False))
    teacher.load(str(bundle.folder))
    for name, value in teacher.encoder.state_dict().items():
        torch.testing.assert_close(value, stage.encoder.state_dict()[name], msg=name)
    torch.save({"state_dict": {"field.encoder.prior": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(BundleError, match="another network"):
        teacher.load(str(tmp_path / "other.ckpt"))
