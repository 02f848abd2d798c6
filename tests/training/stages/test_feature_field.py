"""Feature field, then semantics: what each learns from, what stays, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering.clusters import (
    CLASS_COLOURS,
    CLASS_FILE,
    CLUSTER_FILE,
    Clusters,
    write_class_file,
    write_clusters,
)
from scene_completion_training.configuration import RenderSettings
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.export import export_labelled
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.networks.density_field import sample_map
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.feature_field import (
    FeatureFieldConfiguration,
    FeatureFieldStage,
    FeatureSettings,
    feature_targets,
)
from tests.training.small_trainings import DIMENSION, HIDDEN, batches, feature_training, learn, small_data


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

    def get(self, key: str, variant: int) -> object:
        raise AssertionError


def test_a_feature_field_can_learn_its_targets(synthetic_drive: Path, targets: Path) -> None:
    """The same rays again and again: from no agreement with the tokens to nearly all, while the density stays."""
    settings = FeatureSettings(targets=str(targets))
    torch.manual_seed(0)
    stage = FeatureFieldStage(
        FeatureFieldConfiguration(
            pretrained=False, features=settings, half_resolution_steps=1, render=RenderSettings(patches=2, samples=8)
        )
    )
    (batch,) = batches(small_data(synthetic_drive), 1, targets=FeatureStore.open(targets))
    losses = [terms["feature"] for terms in learn(stage, batch, "feature", steps=20, rate=5e-3)]
    assert losses[0] > 0.5 and losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is None for parameter in stage.field.density.parameters())


def test_maps_that_are_kept_change_nothing(synthetic_drive: Path, targets: Path, student: Path, tmp_path: Path) -> None:
    """The density never learns, so its trunk says the same of a sample each time."""
    data = dataclasses.replace(small_data(synthetic_drive), distinct_samples=2)
    features, found = FeatureSettings(targets=str(targets)), {}
    for kept in (False, True):
        changes = {"start_from": str(student), "data": data, "keep_maps": kept}
        settings = feature_training(synthetic_drive, tmp_path / str(kept), features, **changes)
        found[kept] = Checkpoint.read(train(settings)).state
    for name, value in found[False].items():
        torch.testing.assert_close(found[True][name], value, atol=2e-3, rtol=2e-2)  # they are float16


def test_what_cannot_be_trained_is_refused(
    synthetic_drive: Path, targets: Path, student: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"features: neither precomputed targets nor a model"):
        feature_targets(FeatureSettings())
    with pytest.raises(ConfigurationError, match="cell"):
        feature_targets(FeatureSettings(targets=str(targets), cell=8))
    with pytest.raises(ConfigurationError, match=r"start_from: the density is to stay"):
        train(feature_training(synthetic_drive, tmp_path / "a", FeatureSettings(targets=str(targets))))
    with pytest.raises(ConfigurationError, match=r"features\.cell: 12 pixels"):
        make_stage(FeatureFieldConfiguration(features=FeatureSettings(cell=12, rays=8)))
    with pytest.raises(ConfigurationError, match=r"features\.own_view: 1\.0"):
        make_stage(FeatureFieldConfiguration(features=FeatureSettings(own_view=1.0)))
    with pytest.raises(BundleError, match=r"no FeatureField in it: its stage is single_view.*`feature_field` or `sem"):
        Checkpoint(tmp_path / "x.ckpt", {}, {}).field_of(FeatureField)
    other = feature_training(
        synthetic_drive, tmp_path / "b", FeatureSettings(targets=str(targets), units=32), start_from=str(trained)
    )
    with pytest.raises(BundleError, match="weights of another network"):
        train(other)


def test_features_are_those_of_tokens_less_their_mean(trained: Path, synthetic_drive: Path, targets: Path) -> None:
    """The mean is that of the drive's tokens, and travels with the checkpoint; what was learned has it taken off."""
    store = FeatureStore.open(targets)
    data = SequencesData(small_data(synthetic_drive), 64, 0, DataNeeds(targets=store))
    data.setup("fit")
    samples = [data.samples()[index] for index in range(16)]
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
    (batch,) = batches(small_data(synthetic_drive), 1, targets=FeatureStore.open(targets))
    before = stage.terms(batch, torch.Generator().manual_seed(5))["feature"].item()
    moved = {**batch, "features": batch["features"].float() + 3.0}
    other = stage.terms(moved, torch.Generator().manual_seed(5))["feature"].item()
    stage.field.target_mean.fill_(3.0)
    again = stage.terms(moved, torch.Generator().manual_seed(5))["feature"].item()
    assert abs(other - before) > 1e-3
    assert again == pytest.approx(before, abs=1e-4)


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
    again = np.maximum(image_part + code @ head.label_positional_weight.T + head.label_hidden_bias, 0.0)
    assert again == pytest.approx(units, abs=1e-5)
    assert head.label_weight.shape == (2, 64)


def test_labels_of_another_student_are_refused(trained: Path, student: Path, classes: Path, tmp_path: Path) -> None:
    bundle = StudentBundle.load(student)
    weights = bundle.load_weights()
    weights["feature_layer.weight"] = weights["feature_layer.weight"] + 1
    other = dataclasses.replace(bundle, name="o").save(tmp_path / "other", bundle.read_encoder(), weights)
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
