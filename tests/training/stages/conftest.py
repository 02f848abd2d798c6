"""Trainings of the stages that learn from a drive, with targets of a tiny foundation model."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scene_completion_training.data.module import SequencesData
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore, precompute
from scene_completion_training.stages import feature_field
from tests.training.foundation.tiny_models import saved_depth_model, saved_model
from tests.training.small_trainings import VIEWPOINT, Trainings, small_data


@pytest.fixture(scope="module")
def few_points() -> Iterator[None]:
    """A field of four steps says nothing of what is occupied: for `semantics`, all of it is, in few neighbourhoods."""
    with pytest.MonkeyPatch.context() as patch:
        occupied = lambda _, logit: torch.ones_like(logit, dtype=torch.bool)  # noqa: E731
        patch.setattr(feature_field.SemanticsStage, "occupied", occupied)
        for name, value in {"BUFFER": 8, "BINS": 3, "APART_M": 0.5, "DEPTH_STRIDE": 4}.items():
            patch.setattr(feature_field, name, value)
        yield


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network of Depth Anything."""
    return saved_depth_model(tmp_path_factory.mktemp("depth") / "tiny")


@pytest.fixture(scope="session")
def targets(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of a tiny random foundation model for the drive."""
    folder = tmp_path_factory.mktemp("targets")
    backbone = Backbone(saved_model("dinov2", folder / "model"))
    data = SequencesData(small_data(synthetic_drive), 1, 0, viewpoint=VIEWPOINT)
    data.setup("fit")
    size = VIEWPOINT.camera.height, VIEWPOINT.camera.width
    manifest = FeatureManifest(backbone.identity, cell=16, image_size=size, variants=2, seed=0)
    precompute(data.frames[0], VIEWPOINT.camera, backbone, FeatureStore.create(folder / "store", manifest))
    return folder / "store"


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
def trainings(
    synthetic_drive: Path, teacher: Path, targets: Path, text_targets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trainings:
    return Trainings(synthetic_drive, tmp_path_factory.mktemp("trainings"), teacher, targets, text_targets)
