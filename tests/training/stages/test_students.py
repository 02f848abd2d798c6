"""The stages `teacher` and `student`: how many views a teacher needs, what a student learns of it, and is deployed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import LossWeights
from scene_completion_training.export import export_bundle
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.runner import train
from scene_completion_training.stages.density import DistillationSettings, StudentStage
from tests.training.small_trainings import VIEWPOINT, Trainings, batches, learn
from tests.training.synthetic_scene import FOCAL, WIDTH

SILENT = LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_teacher_of_one_view_needs_no_others(trainings: Trainings, tmp_path: Path) -> None:
    one = trainings.configuration("teacher", tmp_path, encoder_views=1, hidden=48, steps=2)
    assert Checkpoint.read(train(one)).field_of(MultiViewField).fusion.feature_layer.out_channels == 48


def test_a_student_is_distilled_and_deployed(trainings: Trainings, tmp_path: Path) -> None:
    checkpoint = trainings.checkpoint("student")
    stored, before = Checkpoint.read(checkpoint), Checkpoint.read(trainings.teacher)
    assert stored.half_resolution
    digest = hashlib.sha256(trainings.teacher.read_bytes()).hexdigest()
    assert stored.record["configuration"]["teacher_sha256"] == digest
    assert all("teacher" not in name for name in torch.load(checkpoint, weights_only=True)["state_dict"])
    weight = stored.field_of(DensityField).encoder.state_dict()["project.weight"]
    assert not torch.equal(weight, before.state["encoder.project.weight"])
    bundle = export_bundle(checkpoint, tmp_path / "bundle", name="t", licence="none", provenance={})
    loaded = StudentBundle.load(bundle.folder)
    assert loaded.head.positional_weight.shape == (64, 39)
    assert loaded.focal_range == pytest.approx((0.99 * FOCAL / WIDTH, 1.01 * FOCAL / WIDTH))
    assert loaded.provenance["configuration"]["seed"] == 1
    assert str(trainings.folder) not in json.dumps(loaded.provenance)
    # Trained on images of half the size, it is deployed on such: the same view, half the focal length.
    assert (loaded.canonical.width, loaded.canonical.height, loaded.feature_size) == (64, 32, (16, 32))
    assert loaded.canonical == VIEWPOINT.camera.resized(64, 32)
    image = 255.0 * torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
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
def test_the_student_goes_towards_its_teacher(trainings: Trainings, distillation: DistillationSettings) -> None:
    """Distillation alone, head only: the loss on the same samples falls, and encoder and teacher stay as they were."""
    torch.manual_seed(1)
    configuration = trainings.configuration("student", losses=SILENT, distillation=distillation)
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
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student goes on to whole images; its teacher, which never saw any, is shown halves."""
    observe, seen = MultiViewField.observe, []

    def watched(self: MultiViewField, images: torch.Tensor, *arguments: object) -> object:
        seen.append(tuple(images.shape))
        return observe(self, images, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(MultiViewField, "observe", watched)
    changes = {"steps": 2, "half_resolution_steps": 1, "hidden": 32}
    checkpoint = Checkpoint.read(train(trainings.configuration("student", tmp_path, **changes)))
    assert seen == [(1, 3, 3, 32, 64)] * 2
    assert not checkpoint.half_resolution and checkpoint.field_of(DensityField).hidden == 32
