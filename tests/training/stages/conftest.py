"""A student and a feature field of a few steps, trained once for the tests of several stages."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from scene_completion_training.data.module import SequencesData
from scene_completion_training.export import export_bundle
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore, canonical_manifest, precompute
from scene_completion_training.runner import train
from scene_completion_training.stages.feature_field import FeatureSettings
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.small_trainings import DIMENSION, HIDDEN, feature_training, small_data, small_training


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random foundation model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = Dinov2Config(
        hidden_size=DIMENSION, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def targets(synthetic_drive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of that model for the drive."""
    folder = tmp_path_factory.mktemp("targets") / "store"
    backbone = Backbone(model)
    data = SequencesData(small_data(synthetic_drive), 1, 0)
    data.setup("fit")
    store = FeatureStore.create(folder, canonical_manifest(backbone, STREET_CAMERA, cell=16, variants=2, seed=0))
    precompute(data.frames[0], STREET_CAMERA, backbone, store)
    return folder


@pytest.fixture(scope="session")
def text_targets(targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokens, as if they lay in the space of a text encoder."""
    folder = tmp_path_factory.mktemp("text_targets") / "store"
    shutil.copytree(targets, folder)
    store = FeatureStore.open(folder)
    model = dataclasses.replace(store.manifest.model, text_encoder="tiny/text", text_encoder_sha256="0" * 64)
    dataclasses.replace(store.manifest, model=model).write(folder / "manifest.json")
    return folder


@pytest.fixture(scope="session")
def student(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a student of a few steps, with a calibration of its own."""
    folder = tmp_path_factory.mktemp("student")
    checkpoint = train(SingleViewConfiguration(**small_training(synthetic_drive, folder / "run", hidden=HIDDEN)))
    export_bundle(checkpoint, folder / "bundle", name="t", licence="none", provenance={})
    return folder / "bundle"


@pytest.fixture(scope="session")
def trained(synthetic_drive: Path, targets: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a feature field of a few steps."""
    output = tmp_path_factory.mktemp("runs") / "features"
    return train(
        feature_training(synthetic_drive, output, FeatureSettings(targets=str(targets)), start_from=str(student))
    )
