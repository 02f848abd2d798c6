"""Fields with a decoder in space: trained, kept maps and all, and deployed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu_graph_encoder import GpuGraph
from scene_completion_ros.inference.render import said_depth
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering.clusters import (
    CLASS_FILE,
    CLUSTER_FILE,
    Clusters,
    write_class_file,
    write_clusters,
)
from scene_completion_training.configuration import LossWeights, SpatialSettings
from scene_completion_training.data.module import DataSettings
from scene_completion_training.evaluation.checkpoints import observed_density
from scene_completion_training.evaluation.density_stretch import DensityStretch
from scene_completion_training.export import export_bundle, export_labelled
from scene_completion_training.gpu_export.graph import gpu_graph
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.feature_field import FeatureSettings
from scene_completion_training.stages.semantics import SemanticsConfiguration
from scene_completion_training.stages.single_view import SingleViewConfiguration, SingleViewStage
from scene_completion_training.stages.student import StudentConfiguration
from scene_completion_training.stages.teacher import TeacherConfiguration
from tests.training.small_trainings import feature_training, small_data, small_training

OCCUPANCY = LossWeights(photometric=0.0, smoothness=0.0, stereo_depth=0.0, sparsity=0.0, emptiness=0.1)
SPATIAL = SpatialSettings(stride=4, reduced=4, widths=(8, 8))


def _data(drive: Path, distinct: int = 0) -> DataSettings:
    return dataclasses.replace(small_data(drive), distinct_samples=distinct)


def _settings(drive: Path, output: Path, **changes: object) -> SingleViewConfiguration:
    values = {"losses": OCCUPANCY, "hidden": 32, **changes}
    return SingleViewConfiguration(**small_training(drive, output, **values))


@pytest.fixture(scope="module")
def eyes(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a field without a decoder in space, of a few steps."""
    return train(_settings(synthetic_drive, tmp_path_factory.mktemp("runs") / "eyes"))


@pytest.fixture(scope="module")
def seeing(synthetic_drive: Path, eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of the same field with one, which alone learned; what the encoder says was kept."""
    output = tmp_path_factory.mktemp("runs") / "seeing"
    changes = {"spatial": SPATIAL, "freeze_encoder": True, "keep_maps": True, "data": _data(synthetic_drive, 2)}
    return train(_settings(synthetic_drive, output, start_from=str(eyes), learning_rate=0.05, steps=8, **changes))


def test_a_decoder_in_space_learns_beside_a_frozen_encoder(eyes: Path, seeing: Path) -> None:
    before, after = Checkpoint.read(eyes), Checkpoint.read(seeing)
    for name, value in before.state.items():
        assert torch.equal(after.state[name], value) == name.startswith("encoder."), name
    assert after.state["spatial.leave.weight"].any()
    kept = sorted(path.name for path in (seeing.parent.parent / "kept_maps").iterdir())
    assert kept == ["key.txt", "known.npy", "map_00.npy"]


@pytest.mark.parametrize(("alone", "silent"), [(4, True), (2, False)])
def test_a_head_may_learn_after_the_decoder(
    synthetic_drive: Path, eyes: Path, tmp_path: Path, alone: int, silent: bool
) -> None:
    spatial = dataclasses.replace(SPATIAL, alone_steps=alone)
    changes = {"start_from": str(eyes), "spatial": spatial, "freeze_encoder": True, "steps": 4, "learning_rate": 0.05}
    state = Checkpoint.read(train(_settings(synthetic_drive, tmp_path, **changes))).state
    assert Checkpoint.read(eyes).state["density_layer.weight"].any()
    assert bool(state["density_layer.weight"].any()) != silent
    assert state["spatial.leave.weight"].any()


def test_maps_that_are_kept_change_nothing(synthetic_drive: Path, eyes: Path, tmp_path: Path) -> None:
    changes = {"start_from": str(eyes), "spatial": SPATIAL, "freeze_encoder": True}
    data = _data(synthetic_drive, 2)
    runs = {}
    for kept in (False, True):
        settings = _settings(synthetic_drive, tmp_path / str(kept), keep_maps=kept, data=data, **changes)
        runs[kept] = Checkpoint.read(train(settings)).state
    for name, value in runs[False].items():
        torch.testing.assert_close(runs[True][name], value, atol=2e-3, rtol=2e-2)  # they are float16


def test_it_is_deployed_with_its_volume(seeing: Path, tmp_path: Path) -> None:
    bundle = export_bundle(seeing, tmp_path / "bundle", name="t", licence="none", provenance={})
    assert bundle.head.volume is not None and bundle.head.volume.knots == bundle.grid.shape
    stored = Checkpoint.read(seeing)
    image = np.random.default_rng(0).integers(0, 255, (96, 320, 3), dtype=np.uint8)
    completion = Completer(bundle, bundle.canonical, threads=1).complete(image)
    points = np.array([[0.5, 1.2, 7.3], [-2.1, 0.3, 11.9], [3.3, -0.7, 20.1], [0.1, 1.5, 30.3]])
    index = np.floor((np.stack([points[:, 2], -points[:, 0], -points[:, 1]], -1) - bundle.grid.origin) / 0.2)
    centres = np.asarray(bundle.grid.origin) + (index + 0.5) * 0.2
    cameras = np.stack([-centres[:, 1], -centres[:, 2], centres[:, 0]], axis=-1).astype(np.float32)
    with torch.no_grad():
        planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        density = stored.field_of(DensityField).observe(planes).density(torch.from_numpy(cameras)[None])[0].numpy()
    found = completion.alpha[tuple(index.astype(int).T)]
    np.testing.assert_allclose(found, -np.expm1(-0.2 * density), atol=5e-3)
    with torch.no_grad():
        code = stored.field_of(DensityField).observe(planes).depth_code[:, None]
        inverse = functional.interpolate(bundle.point_code.inverse_depth(code), (96, 320), mode="bilinear")
    expected = 1.0 / (np.logaddexp(0.0, 200.0 * inverse[0, 0].double().numpy()) / 200.0).clip(1e-3)
    np.testing.assert_allclose(completion.depth, expected, rtol=2e-2)
    seen = observed_density(stored.field_of(DensityField).observe(planes), bundle.canonical, bundle.point_code)
    pixels = np.array([[20.0, 30.0], [160.5, 60.0]])
    np.testing.assert_allclose(
        seen.depth(pixels), said_depth(completion.depth, bundle.canonical, bundle.canonical, pixels), rtol=2e-2
    )
    encoder = make_encoder(bundle, "onnxruntime", threads=1).encode(image)
    features, volume, depth, _ = GpuGraph(gpu_graph(bundle).SerializeToString(), "test", threads=1).encode(image)
    assert encoder.volume is not None and encoder.volume.any()
    np.testing.assert_allclose(features, encoder.features, atol=1e-3)
    np.testing.assert_allclose(volume, encoder.volume, atol=1e-3)
    assert encoder.depth is not None
    np.testing.assert_allclose(depth, encoder.depth, rtol=1e-3)


def test_what_cannot_be_is_refused(synthetic_drive: Path, eyes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="none is named"):
        _settings(synthetic_drive, tmp_path, freeze_encoder=True).check()
    with pytest.raises(ConfigurationError, match="no sample comes again"):
        _settings(synthetic_drive, tmp_path, keep_maps=True).check()
    data = _data(synthetic_drive, 2)
    with pytest.raises(ConfigurationError, match="half the size"):
        _settings(synthetic_drive, tmp_path, keep_maps=True, data=data, half_resolution_steps=2).check()
    with pytest.raises(ConfigurationError, match="spatial"):
        SingleViewStage(_settings(synthetic_drive, tmp_path, spatial=SpatialSettings(stride=0)).completed())
    with pytest.raises(ConfigurationError, match="only one process"):
        _settings(synthetic_drive, tmp_path, keep_maps=True, data=data, devices=2).check()
    for kind in (TeacherConfiguration, StudentConfiguration):
        with pytest.raises(ConfigurationError, match=f"stage {kind.stage} keeps none"):
            kind(**small_training(synthetic_drive, tmp_path, keep_maps=True, data=data)).check()
    with pytest.raises(ConfigurationError, match="says nothing that stays"):
        train(_settings(synthetic_drive, tmp_path / "none", keep_maps=True, data=data))
    for wrong in (
        {"covered": -1},
        {"covered": 96},
        {"blind": 1.5},
        {"blind": float("nan")},
        {"misread": 6.0},
    ):
        views = dataclasses.replace(data, views=dataclasses.replace(data.views, **wrong))
        with pytest.raises(ConfigurationError, match="fewer rows than half"):
            _settings(synthetic_drive, tmp_path, data=views).check()
    frozen = {"freeze_encoder": True, "start_from": str(eyes)}
    with pytest.raises(ConfigurationError, match="the encoder is frozen"):
        _settings(synthetic_drive, tmp_path, depth_only_steps=2, **frozen).check()
    with pytest.raises(ConfigurationError, match="no loss teaches the depth"):
        _settings(synthetic_drive, tmp_path, spatial=SPATIAL, losses=LossWeights(dense_depth=0.0)).check()


def test_labels_stand_on_a_field_with_a_decoder_in_space(
    synthetic_drive: Path, targets: Path, seeing: Path, tmp_path: Path
) -> None:
    """Features learn beside it, the student is stretched meanwhile, and the labelled student completes as it."""
    plain = export_bundle(seeing, tmp_path / "plain", name="t", licence="none", provenance={})
    stretch = DensityStretch(2.0, 0.5)
    weights = stretch.of_weights(plain.load_weights())
    stretched = dataclasses.replace(plain, head=stretch.of_head(plain.head))
    stretched = stretched.save(tmp_path / "stretched", plain.read_encoder(), weights)
    image = np.random.default_rng(0).integers(0, 255, (96, 320, 3), dtype=np.uint8)
    expected = Completer(stretched, plain.canonical, threads=1).complete(image).alpha
    features = FeatureSettings(targets=str(targets))
    folder = tmp_path / "classes"
    values = {"start_from": str(plain.folder), "spatial": SPATIAL, "hidden": 32, "steps": 2}
    checkpoint = train(feature_training(synthetic_drive, tmp_path / "of_plain", features, **values))
    units, codes = np.tile(np.eye(2, 64, dtype=np.float16), (50, 1)), np.tile(np.eye(2, dtype=np.float32), (50, 1))
    folder.mkdir()
    write_clusters(folder / CLUSTER_FILE, Clusters(np.eye(2, dtype=np.float32)), codes, units)
    write_class_file(folder / CLASS_FILE, ["road", "car"], [0.5, 0.5])
    labelled, _ = export_labelled(checkpoint, stretched, folder, tmp_path / "labelled", name="l", licence="")
    assert labelled.head.label_hidden and labelled.head.volume is not None
    found = Completer(labelled, plain.canonical, threads=1).complete(image)
    np.testing.assert_allclose(found.alpha, expected, atol=2e-3)
    semantics = SemanticsConfiguration(features_from=str(checkpoint), **small_training(synthetic_drive, tmp_path / "s"))
    stage = make_stage(semantics)
    assert isinstance(stage.field, FeatureField) and stage.field.density.spatial is not None
