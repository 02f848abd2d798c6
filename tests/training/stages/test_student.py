"""The student: what it learns from its teacher, and what is kept of it."""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import LossWeights
from scene_completion_training.export import export_bundle
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.multi_view_field import MultiViewField
from scene_completion_training.runner import train
from scene_completion_training.stages.student import DistillationSettings, StudentConfiguration, StudentStage
from tests.training.small_trainings import batches, learn, small_training

SILENT = LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _student(drive: Path, teacher: Path, output: Path, **changes: object) -> StudentConfiguration:
    return StudentConfiguration(teacher=str(teacher), **small_training(drive, output, **changes))


@pytest.fixture(scope="module")
def student(synthetic_drive: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a student as published, of a few steps."""
    return train(_student(synthetic_drive, teacher, tmp_path_factory.mktemp("runs") / "student"))


def test_it_is_distilled(teacher: Path, student: Path) -> None:
    stored, before = Checkpoint.read(student), Checkpoint.read(teacher)
    assert stored.stage == "student" and before.stage == "teacher" and stored.half_resolution
    assert stored.record["configuration"]["teacher_sha256"] == hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert all("teacher" not in name for name in torch.load(student, weights_only=True)["state_dict"])
    weight = stored.field_of(DensityField).encoder.state_dict()["project.weight"]
    assert not torch.equal(weight, before.state["encoder.project.weight"])


def test_a_student_is_deployed(student: Path, tmp_path: Path) -> None:
    stored = Checkpoint.read(student)
    bundle = export_bundle(student, tmp_path / "bundle", name="t", licence="none", provenance={})
    loaded = StudentBundle.load(bundle.folder)
    assert loaded.head.positional_weight.shape == (64, 39)
    # Trained on images of half the size, it is deployed on such: the same view, half the focal length.
    assert (loaded.canonical.width, loaded.canonical.height, loaded.feature_size) == (320, 96, (48, 160))
    assert (loaded.canonical.fx, loaded.canonical.cx, loaded.canonical.cy) == (185.0, 159.5, 45.75)
    image = 255.0 * torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(loaded.encoder_path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        expected = stored.field_of(DensityField).observe(image).hidden_map.permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize(
    "distillation",
    [
        DistillationSettings(weight=1.0, freeze_encoder=True),
        DistillationSettings(weight=1.0, freeze_encoder=True, space="occupancy", along_rays=False),
    ],
    ids=["density", "occupancy"],
)
def test_the_student_goes_towards_its_teacher(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, distillation: DistillationSettings
) -> None:
    """Distillation alone, head only: the loss on the same samples falls, and encoder and teacher stay as they were."""
    torch.manual_seed(1)
    configuration = _student(synthetic_drive, teacher, tmp_path, losses=SILENT, distillation=distillation)
    stage = StudentStage(configuration)
    assert stage.renders == distillation.along_rays  # nothing else asks for rays
    parts = (stage.teacher, stage.encoder)
    kept = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    (batch,) = batches(configuration.data, 1, views=3)
    losses = [terms["distillation"] for terms in learn(stage, batch, "distillation", steps=17, rate=1e-2)]
    assert losses[-1] < 0.6 * losses[0]
    for part, before in zip(parts, kept, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_a_teacher_keeps_the_resolution_it_was_trained_at(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student goes on to whole images; its teacher, which never saw any, is shown halves."""
    observe, seen = MultiViewField.observe, []

    def watched(self: MultiViewField, images: torch.Tensor, *arguments: object) -> object:
        seen.append(tuple(images.shape))
        return observe(self, images, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MultiViewField, "observe", watched)
    changes = {"steps": 2, "half_resolution_steps": 1, "hidden": 32}
    checkpoint = Checkpoint.read(train(_student(synthetic_drive, teacher, tmp_path / "s", **changes)))
    assert seen == [(1, 3, 3, 96, 320)] * 2
    assert not checkpoint.half_resolution and checkpoint.field_of(DensityField).hidden == 32


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"encoder_views": 5}, "encoder_views"),
        ({"depth_only_steps": 2}, "depth_only_steps"),
        ({"encoder": "resnet50"}, "encoder"),
        ({"steps": 4, "checkpoint_every": 4, "ema_decay": 0.5}, "ema_start"),
    ],
)
def test_students_that_cannot_be_are_refused(
    synthetic_drive: Path, teacher: Path, tmp_path: Path, change: dict[str, object], where: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{where}:"):
        train(_student(synthetic_drive, teacher, tmp_path, **change))
