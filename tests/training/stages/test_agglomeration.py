"""The agglomeration: what it learns from several teachers, what stays, what is deployed, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.export import FoldedEncoder, encoder_onnx
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.agglomeration import (
    AgglomerationConfiguration,
    AgglomerationSettings,
    AgglomerationStage,
    StoredTeacher,
)
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.small_trainings import HIDDEN, batches, learn, small_data, small_training


@pytest.fixture(scope="module")
def settings(targets: Path, text_targets: Path) -> AgglomerationSettings:
    """Two teachers: one in the space of a text encoder, one not."""
    text = StoredTeacher("text", targets=str(text_targets))
    return AgglomerationSettings([text, StoredTeacher("dino", targets=str(targets), centre="targets")], points=256)


def training(drive: Path, output: Path, settings: AgglomerationSettings, **changes: Any) -> AgglomerationConfiguration:
    return AgglomerationConfiguration(**small_training(drive, output, hidden=HIDDEN, agglomeration=settings, **changes))


def test_the_density_stays_and_all_else_learns(
    synthetic_drive: Path, student: Path, settings: AgglomerationSettings, tmp_path: Path
) -> None:
    agglomerated = train(training(synthetic_drive, tmp_path / "run", settings, start_from=str(student)))
    stored = Checkpoint.read(agglomerated)
    field = stored.field_of(AgglomeratedField)
    weights = StudentBundle.load(student).load_weights()
    for name, value in field.density.named_parameters():
        assert torch.equal(value, torch.from_numpy(weights[name]).float()), name
    assert field.teachers == ("text", "dino")
    assert stored.configuration["teachers"]["text"]["text_encoder"] == "tiny/text"
    content = torch.load(agglomerated, weights_only=True)["state_dict"]
    moved = [float(content[f"uncertainty.logarithms.{number}"]) for number in range(2)]
    assert all(value != 0.0 for value in moved)
    assert field.centres["dino"].any() and not field.centres["text"].any()


def test_teachers_can_be_learned(synthetic_drive: Path, student: Path, settings: AgglomerationSettings) -> None:
    """The same points again and again: from no agreement with the text teacher to most."""
    torch.manual_seed(0)
    stage = AgglomerationStage(
        AgglomerationConfiguration(
            pretrained=False, hidden=HIDDEN, half_resolution_steps=1, agglomeration=settings, start_from=str(student)
        )
    )
    stage.load(str(student))
    (batch,) = batches(small_data(synthetic_drive), 1, targets=stage.stores)
    stage.fit_targets([{name: value[0] for name, value in batch.items()}])
    losses = learn(stage, batch, "agglomeration", steps=25, rate=5e-3)
    assert losses[0]["teacher_text"] > 0.5 and losses[-1]["teacher_text"] < 0.4 * losses[0]["teacher_text"]
    assert losses[-1]["teacher_dino"] < losses[0]["teacher_dino"]
    assert all(parameter.grad is None for parameter in stage.field.density.parameters())


@pytest.fixture
def field() -> AgglomeratedField:
    """One with random weights."""
    torch.manual_seed(0)
    density = DensityField(STREET_CAMERA, hidden=HIDDEN)
    nn.init.normal_(density.encoder.project.weight, std=0.1)
    return AgglomeratedField(density, {"text": 10, "dino-s": 12}, channels=16, units=20).eval()


def test_a_teachers_space_is_a_linear_map_of_the_units(field: AgglomeratedField) -> None:
    """What the robot computes from the units is what the heads say."""
    seen = field.observe(255.0 * torch.rand(1, 3, 192, 640))
    points = torch.rand(1, 50, 3) * torch.tensor([4.0, 2.0, 20.0]) + torch.tensor([-2.0, -1.0, 4.0])
    with torch.no_grad():
        features, units = seen.features(points)[0], seen.units(points)[0]
        for teacher in field.teachers:
            weight, bias = field.space(teacher)
            expected = field.original(teacher, features)
            assert torch.allclose(units @ weight.T + bias, expected, atol=1e-4)
        sides = [functional.normalize(field.original(teacher, features), dim=-1) for teacher in field.teachers]
        assert torch.allclose(field.expand(features), functional.normalize(torch.cat(sides, dim=-1), dim=-1), atol=1e-5)


def test_the_units_see_the_surface(field: AgglomeratedField) -> None:
    """Nearer surfaces change the units of the same place; the exported encoder gives the same map."""
    image = 255.0 * torch.rand(1, 3, 192, 640)
    with torch.no_grad():
        before = field.observe(image)
        field.density.encoder.prior += 0.5
        after = field.observe(image)
        assert not torch.allclose(before.features_map, after.features_map)
        folded = FoldedEncoder(field, STREET_CAMERA)(image)
    expected = after.features_map.permute(0, 2, 3, 1)
    assert torch.allclose(folded[..., HIDDEN:], expected, atol=1e-4 * float(expected.abs().max()))
    session = onnxruntime.InferenceSession(encoder_onnx(field, STREET_CAMERA), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})[0]
    assert np.abs(found[..., HIDDEN:] - expected.numpy()).max() < 5e-3 * float(expected.abs().max())


def test_what_cannot_be_trained_is_refused(synthetic_drive: Path, targets: Path, student: Path, tmp_path: Path) -> None:
    def refused(match: str, teachers: list[StoredTeacher], **changes: Any) -> None:
        asked = AgglomerationSettings(teachers, **changes)
        with pytest.raises(ConfigurationError, match=match):
            make_stage(training(synthetic_drive, tmp_path, asked, start_from=str(student)))

    plain = StoredTeacher("a", targets=str(targets))
    refused("teachers", [])
    refused("teachers", [plain, plain])
    refused("teachers", [dataclasses.replace(plain, name="a.b")])
    refused("a share from 0 to 1", [plain], own=1.5)
    one_variant = tmp_path / "one"
    store = FeatureStore.open(targets)
    one_variant.mkdir()
    dataclasses.replace(store.manifest, variants=1).write(one_variant / "manifest.json")
    refused("mirrored", [StoredTeacher("a", targets=str(one_variant))])
    with pytest.raises(ConfigurationError, match="start_from"):
        make_stage(training(synthetic_drive, tmp_path, AgglomerationSettings([plain])))
