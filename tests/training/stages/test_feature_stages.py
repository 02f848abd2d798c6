"""Feature field, then semantics: what each learns from, what stays, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering.class_file import CLASS_COLOURS, CLASS_FILE, write_class_file
from scene_completion_training.clustering.clusters import CLUSTER_FILE, Clusters, write_clusters
from scene_completion_training.configuration import LossWeights, RenderSettings, read_configuration
from scene_completion_training.data.module import DataSettings, SequencesData, SequenceSource
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.evaluation.density_stretch import DensityStretch
from scene_completion_training.export import export_bundle, export_labelled
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.foundation.precompute import canonical_manifest, precompute
from scene_completion_training.networks.density_field import sample_map
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.occupancy_link import OccupancyLink, link_calibration, link_of_calibration
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.feature_field import (
    FeatureFieldConfiguration,
    FeatureFieldStage,
    FeatureSettings,
    feature_targets,
    with_own_view,
)
from scene_completion_training.stages.semantics import SemanticsConfiguration, SemanticsStage
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.viewpoint import STREET_CAMERA

STEPS = 4
DIMENSION = 12
HIDDEN = 48
"""Hidden units of the density; not the default, which no stage after may assume."""


def _data(drive: Path, **views: object) -> DataSettings:
    return DataSettings(
        root=str(drive.parent),
        cache=str(drive.parent / "stage_cache"),
        workers=0,
        sources=[SequenceSource(drive.name)],
        fusion=FusionSettings(free_samples=20_000, views=3),
        views=ViewSettings(occupancy_points=256, **views),  # type: ignore[arg-type]
    )


def _common(drive: Path, output: Path, **changes: object) -> dict[str, object]:
    return {
        "data": _data(drive),
        "render": RenderSettings(patches=2, samples=8),
        "seed": 1,
        "steps": STEPS,
        "warmup": 1,
        "half_resolution_steps": STEPS,
        "checkpoint_every": 2,
        "picture_every": 0,
        "log_every": 1,
        "prior_steps": 2,
        "pretrained": False,
        "output": str(output),
        **changes,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random foundation model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = Dinov2Config(
        hidden_size=DIMENSION, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def targets(synthetic_drive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of that model for the drive."""
    folder = tmp_path_factory.mktemp("targets") / "store"
    backbone = Backbone(model)
    data = SequencesData(_data(synthetic_drive), 1, 0)
    data.setup("fit")
    store = FeatureStore.create(folder, canonical_manifest(backbone, STREET_CAMERA, cell=16, variants=2, seed=0))
    precompute(data.frames[0], STREET_CAMERA, backbone, store)
    return folder


@pytest.fixture(scope="module")
def student(synthetic_drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle of a student of a few steps, with a calibration of its own."""
    folder = tmp_path_factory.mktemp("student")
    settings = _common(synthetic_drive, folder / "run", hidden=HIDDEN)
    checkpoint = train(SingleViewConfiguration(**settings))  # type: ignore[arg-type]
    export_bundle(checkpoint, folder / "bundle", name="t", licence="none", provenance={})
    return folder / "bundle"


@pytest.fixture(scope="module")
def trained(synthetic_drive: Path, targets: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a feature field of a few steps."""
    output = tmp_path_factory.mktemp("runs") / "features"
    return train(_features(synthetic_drive, output, FeatureSettings(targets=str(targets)), start_from=str(student)))


def _features(drive: Path, output: Path, features: FeatureSettings, **changes: object) -> FeatureFieldConfiguration:
    changes = {"hidden": HIDDEN, **changes}
    return FeatureFieldConfiguration(**_common(drive, output, features=features, **changes))  # type: ignore[arg-type]


def test_the_density_stays_and_the_features_learn(trained: Path, student: Path, tmp_path: Path) -> None:
    stored = Checkpoint.read(trained)
    assert stored.stage == "feature_field" and stored.half_resolution
    field = stored.field_of(FeatureField)
    assert (field.target_size, field.channels) == (DIMENSION, 64)
    weights = StudentBundle.load(student).load_weights()
    for name, value in field.density.named_parameters():
        assert torch.equal(value, torch.from_numpy(weights[name]).float()), name
    fresh = FeatureFieldStage(FeatureFieldConfiguration(pretrained=False), _Dimension())
    learned = [name for name, p in fresh.named_parameters() if p.requires_grad]
    assert not any(name.startswith("field.density") for name in learned)
    assert {"downsampler.scale", "artefacts.values", "field.output_layer.weight"} <= set(learned)


class _Dimension:
    dim, cell, variants = DIMENSION, 16, 2

    def get(self, key: str, image: object, variant: int) -> object:
        raise AssertionError


@pytest.mark.parametrize(
    "features",
    [
        FeatureSettings(freeze_density=False),
        FeatureSettings(downsampler="none", artefacts=False),
        FeatureSettings(cell=8, rays=8, samples=64, own_view=0.0, centred=False),
    ],
    ids=["joint", "enlarged targets", "as published"],
)
def test_variants_of_the_stage_train(
    synthetic_drive: Path, model: Path, student: Path, tmp_path: Path, features: FeatureSettings
) -> None:
    """Targets are computed while training."""
    features = dataclasses.replace(features, model=str(model))
    state = Checkpoint.read(
        train(_features(synthetic_drive, tmp_path / "run", features, steps=2, start_from=str(student)))
    ).state
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


@pytest.mark.parametrize("downsampler", ["salience", "none"])
def test_a_feature_field_can_learn_its_targets(synthetic_drive: Path, targets: Path, downsampler: str) -> None:
    """The same rays again and again: from no agreement with the tokens to nearly all, while the density stays."""
    settings = FeatureSettings(targets=str(targets), downsampler=downsampler)  # type: ignore[arg-type]
    torch.manual_seed(0)
    stage = FeatureFieldStage(
        FeatureFieldConfiguration(
            pretrained=False, features=settings, half_resolution_steps=1, render=RenderSettings(patches=2, samples=8)
        )
    )
    data = SequencesData(_data(synthetic_drive), 1, 0, targets=FeatureStore.open(targets))
    data.setup("fit")
    batch = {name: value[None] for name, value in data.samples()[0].items()}
    learning = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learning, 2e-3)
    losses = []
    for _ in range(40):
        loss = stage.terms(batch, torch.Generator().manual_seed(5))["feature"]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.5 and losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is None for parameter in stage.field.density.parameters())


def test_a_killed_training_goes_on_the_same(
    synthetic_drive: Path, targets: Path, student: Path, tmp_path: Path, trained: Path
) -> None:
    """What is resumed after two steps ends where the uninterrupted training does."""
    configuration = _features(
        synthetic_drive, tmp_path / "run", FeatureSettings(targets=str(targets)), start_from=str(student)
    )

    class Killed(Exception):
        pass

    step = FeatureFieldStage.training_step

    def killed(stage: FeatureFieldStage, batch: object, index: int) -> object:
        if stage.global_step == 3:
            raise Killed
        return step(stage, batch, index)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureFieldStage, "training_step", killed)
        with pytest.raises(Killed):
            train(configuration)
    resumed = Checkpoint.read(train(configuration)).state
    for name, value in Checkpoint.read(trained).state.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("forces", ["estimated", "kitti_360"])
def test_semantics_train_on_a_frozen_field(synthetic_drive: Path, trained: Path, tmp_path: Path, forces: str) -> None:
    configuration = SemanticsConfiguration(
        **_common(synthetic_drive, tmp_path / "run", steps=6, half_resolution_steps=0),  # type: ignore[arg-type]
        features_from=str(trained), forces=forces, crop_points=16, buffer=8, bins=3, apart=0.5,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # A field of four steps says nothing of what is occupied: call all of it so.
        patch.setattr(SemanticsStage, "occupied", lambda stage, logit: torch.ones_like(logit, dtype=torch.bool))
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


def test_the_link_of_a_bundle_is_that_of_its_training(student: Path) -> None:
    """Exported, a link becomes a calibration; from that it comes back."""
    link = OccupancyLink(2.0)
    with torch.no_grad():
        link.log_scale.fill_(0.4)
    found = link_of_calibration(link_calibration(link.state_dict(), 0.2), 0.2)
    assert found["log_scale"].item() == pytest.approx(0.4, abs=0.02)
    assert found["offset"].item() == pytest.approx(2.0, abs=0.05)
    assert link_of_calibration(link_calibration({}, 0.2), 0.2) == {}


@pytest.mark.parametrize(
    "name",
    [
        "feature_field.yaml",
        "semantics.yaml",
        "supervised.yaml",
        "full_size/feature_field.yaml",
        "full_size/semantics.yaml",
    ],
)
def test_shipped_configurations_are_read(name: str) -> None:
    from scene_completion_training.commands.train import CONFIGS

    configuration = read_configuration(CONFIGS / name, [])
    assert configuration.stage == Path(name).stem


def test_the_decoder_of_the_features_starts_as_that_of_the_density(student: Path) -> None:
    stage = FeatureFieldStage(FeatureFieldConfiguration(pretrained=False, hidden=HIDDEN), _Dimension())
    stage.load(str(student))
    weights = StudentBundle.load(student).load_weights()
    for name, value in stage.field.decoder.named_parameters():
        assert torch.equal(value, torch.from_numpy(weights[f"encoder.decoder.{name}"]).float()), name
        assert value.requires_grad


def test_what_cannot_be_trained_is_refused(
    synthetic_drive: Path, targets: Path, student: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"features: neither precomputed targets nor a model"):
        feature_targets(FeatureSettings())
    with pytest.raises(ConfigurationError, match="cell"):
        feature_targets(FeatureSettings(targets=str(targets), cell=8))
    with pytest.raises(ConfigurationError, match=r"start_from: the density is to stay"):
        train(_features(synthetic_drive, tmp_path / "a", FeatureSettings(targets=str(targets))))
    with pytest.raises(ConfigurationError, match=r"features\.cell: 12 pixels"):
        make_stage(FeatureFieldConfiguration(features=FeatureSettings(cell=12, rays=8)))
    with pytest.raises(ConfigurationError, match=r"features\.own_view: 1\.0"):
        make_stage(FeatureFieldConfiguration(features=FeatureSettings(own_view=1.0)))
    with pytest.raises(ConfigurationError, match="features_from: no feature field"):
        make_stage(SemanticsConfiguration())
    with pytest.raises(ConfigurationError, match=r"pairs: \['nearest'\] do not exist"):
        make_stage(SemanticsConfiguration(features_from=str(trained), pairs=["self", "nearest"]))
    with pytest.raises(BundleError, match=r"no FeatureField in it: its stage is single_view.*`feature_field` or `sem"):
        Checkpoint(tmp_path / "x.ckpt", {}, {}).field_of(FeatureField)
    other = _features(
        synthetic_drive, tmp_path / "b", FeatureSettings(targets=str(targets), units=32), start_from=str(trained)
    )
    with pytest.raises(BundleError, match="weights of another network"):
        train(other)


def test_features_are_those_of_tokens_less_their_mean(trained: Path, synthetic_drive: Path, targets: Path) -> None:
    """The mean is that of the drive's tokens, and travels with the checkpoint; what was learned has it taken off."""
    store = FeatureStore.open(targets)
    data = SequencesData(_data(synthetic_drive), 64, 0, targets=store)
    data.setup("fit")
    samples = [data.samples()[index] for index in range(64)]
    mean = torch.stack([sample["features"].float().mean(dim=(0, 2, 3)) for sample in samples]).mean(dim=0)
    found = Checkpoint.read(trained).field_of(FeatureField).target_mean
    assert found.norm() > 0.1  # far from none
    assert (found - mean).norm() < 0.1 * mean.norm()  # the training looked at four samples
    whole = FeatureFieldStage(
        FeatureFieldConfiguration(pretrained=False, features=FeatureSettings(centred=False)), _Dimension()
    )
    whole.centre(samples)
    assert not whole.field.target_mean.any()


def test_the_loss_is_blind_to_the_mean_of_all_tokens(synthetic_drive: Path, targets: Path) -> None:
    """Tokens with something added to all of them, and that taken off as their mean, are the same targets."""
    stage = FeatureFieldStage(
        FeatureFieldConfiguration(pretrained=False, render=RenderSettings(patches=2)), _Dimension()
    )
    data = SequencesData(_data(synthetic_drive), 1, 0, targets=FeatureStore.open(targets))
    data.setup("fit")
    batch = {name: value[None] for name, value in data.samples()[0].items()}
    before = stage.terms(batch, torch.Generator().manual_seed(5))["feature"].item()
    moved = {**batch, "features": batch["features"].float() + 3.0}
    other = stage.terms(moved, torch.Generator().manual_seed(5))["feature"].item()
    stage.field.target_mean.fill_(3.0)
    again = stage.terms(moved, torch.Generator().manual_seed(5))["feature"].item()
    assert abs(other - before) > 1e-3
    assert again == pytest.approx(before, abs=1e-4)


def test_own_view_has_its_share_of_the_tokens() -> None:
    views = torch.tensor([[2, 5, 4, 7], [1, 3, 0, 6]])
    half = with_own_view(views, 0.5)
    assert half.shape == (2, 8) and (half[0] == 0).sum() == 4 and (half[1] == 0).sum() == 5
    assert torch.equal(half[:, -4:], views)
    assert torch.equal(with_own_view(views, 0.0), views)
    assert (with_own_view(views, 0.9)[0] == 0).sum() == 36


def test_losses_without_their_density_are_none(synthetic_drive: Path) -> None:
    """With a frozen density only the features have losses, whatever the weights of the others."""
    configuration = FeatureFieldConfiguration(pretrained=False, losses=LossWeights())
    stage = FeatureFieldStage(configuration, _Dimension())
    assert {"feature", "feature_smoothness"} <= set(stage.weights())


@pytest.fixture
def classes(trained: Path, tmp_path: Path) -> Path:
    """What `classes` writes, of random points: three clusters, two of which have the same name."""
    folder = tmp_path / "classes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    units = np.abs(generator.normal(size=(600, 64))).astype(np.float16)
    codes = np.eye(3, dtype=np.float32)[np.argmax(units[:, :3], axis=1)]
    write_clusters(folder / CLUSTER_FILE, Clusters(np.eye(3, dtype=np.float32)), codes, units)
    write_class_file(folder / CLASS_FILE, ["road", "car", "road"], [0.5, 0.3, 0.2])
    return folder


def test_a_student_with_labels_is_deployed(trained: Path, student: Path, classes: Path, tmp_path: Path) -> None:
    """The density's channels stay, up to half precision; those of the features follow, with the label head."""
    plain = StudentBundle.load(student)
    labelled, agreement = export_labelled(trained, plain, classes, tmp_path / "labelled", name="l", licence="none")
    assert labelled.class_names == ("road", "car") and agreement > 0.9
    assert labelled.class_colours == (CLASS_COLOURS["road"], CLASS_COLOURS["car"])
    assert labelled.provenance["labels"]["agreement_with_clusters"] == pytest.approx(agreement, abs=1e-4)
    assert str(tmp_path.parent) not in str(labelled.provenance)  # no folder of the machine that trained it
    assert labelled.calibration == plain.calibration and labelled.threshold == plain.threshold
    image = 255.0 * torch.rand(1, 3, 96, 320, generator=torch.Generator().manual_seed(0))
    found, before = (
        onnxruntime.InferenceSession(str(b.encoder_path), providers=["CPUExecutionProvider"]).run(
            None, {"image": image.numpy()}
        )[0]
        for b in (labelled, plain)
    )
    assert found.shape == (1, 48, 160, HIDDEN + 64)
    assert np.abs(found[..., :HIDDEN] - before).max() < 5e-4 * np.abs(before).max()
    field = Checkpoint.read(trained).field_of(FeatureField)
    with torch.no_grad():
        seen = field.observe(image)
        expected = seen.features_map.permute(0, 2, 3, 1).numpy()
        point = torch.tensor([[[1.0, 0.5, 12.0]]])
        units = seen.units(point)[0].numpy()
    assert np.abs(found[..., HIDDEN:] - expected).max() < 5e-3 * np.abs(expected).max()
    # The units that the robot computes are those of the field, and so are the logits.
    head = labelled.head
    code = field.spec.encode(field.spec.coordinates(point, field.camera))[0].numpy()
    with torch.no_grad():
        image_part = sample_map(seen.features_map, field.spec.coordinates(point, field.camera))[0].T.numpy()
    assert head.label_positional_weight is not None and head.label_hidden_bias is not None
    assert head.label_weight is not None
    again = np.maximum(image_part + code @ head.label_positional_weight.T + head.label_hidden_bias, 0.0)
    assert again == pytest.approx(units, abs=1e-5)
    assert head.label_weight.shape == (2, 64)


def test_a_student_that_was_calibrated_meanwhile_gets_labels_too(
    trained: Path, student: Path, classes: Path, tmp_path: Path
) -> None:
    """Its density, stretched since the features were trained beside it, is the one that is deployed."""
    plain, stretch = StudentBundle.load(student), DensityStretch(1.5, 0.25)
    changed = dataclasses.replace(plain, head=stretch.of_head(plain.head)).save(
        tmp_path / "stretched", plain.encoder_path.read_bytes(), stretch.of_weights(plain.load_weights())
    )
    labelled, _ = export_labelled(trained, changed, classes, tmp_path / "labelled", name="l", licence="none")
    np.testing.assert_array_equal(labelled.head.density_weight, changed.head.density_weight)
    np.testing.assert_array_equal(
        labelled.load_weights()["density_layer.bias"], changed.load_weights()["density_layer.bias"]
    )
    assert labelled.head.label_hidden


def test_labels_of_another_student_are_refused(
    trained: Path, student: Path, classes: Path, tmp_path: Path, synthetic_drive: Path
) -> None:
    checkpoint = train(SingleViewConfiguration(**_common(synthetic_drive, tmp_path / "run", seed=2)))  # type: ignore[arg-type]
    other = export_bundle(checkpoint, tmp_path / "other", name="o", licence="none", provenance={})
    with pytest.raises(BundleError, match="its density differs from that of the student o"):
        export_labelled(trained, other, classes, tmp_path / "x", name="l", licence="none")
    write_clusters(
        classes / CLUSTER_FILE, Clusters(np.eye(3, dtype=np.float32)), np.eye(3, dtype=np.float32),
        np.ones((3, 5), np.float16),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="points of 5 units, the checkpoint has 64"):
        export_labelled(trained, StudentBundle.load(student), classes, tmp_path / "x", name="l", licence="none")
    (classes / CLUSTER_FILE).unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        export_labelled(trained, StudentBundle.load(student), classes, tmp_path / "x", name="l", licence="none")
