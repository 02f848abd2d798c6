"""What all stages promise: they resume as if nothing had happened, keep what is to stay, and refuse what cannot be."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.configuration import Configuration, read_configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import ViewSettings
from scene_completion_training.export import export_bundle, head_weights
from scene_completion_training.field_stage import SingleImageStage, fit_prior
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.losses import occupancy_cross_entropy
from scene_completion_training.networks.density_field import DEPTH_UNITS, DensityField, OccupancyLink
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stage_registry import STAGES
from scene_completion_training.stages.agglomeration import AgglomerationSettings, StoredTeacher
from scene_completion_training.stages.density import TeacherConfiguration
from scene_completion_training.stages.feature_field import FeatureSettings
from tests.training.small_trainings import (
    HIDDEN,
    VIEWPOINT,
    Trainings,
    cut_off,
    small_data,
    small_training,
    write_configuration,
)

pytestmark = pytest.mark.usefixtures("few_points")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "student", "feature_field", "agglomeration", "semantics"])
def test_a_training_that_is_cut_goes_on_the_same(stage: str, trainings: Trainings, tmp_path: Path) -> None:
    whole, cut = Checkpoint.read(trainings.checkpoint(stage)), trainings.configuration(stage, tmp_path)
    with cut_off(3):
        train(cut)
    resumed = Checkpoint.read(train(cut))
    assert whole.stage == resumed.stage == stage
    for name, value in whole.state.items():
        torch.testing.assert_close(resumed.state[name], value, rtol=0, atol=1e-6, msg=name)


def learned(trainings: Trainings, stage: str) -> set[str]:
    """Names of what a training changed."""
    configuration = trainings.configuration(stage)
    torch.manual_seed(configuration.seed)
    fresh = make_stage(configuration).state_dict()
    content = torch.load(trainings.checkpoint(stage), weights_only=True)["state_dict"]
    return {name for name, value in fresh.items() if not torch.equal(value, content[name])}


@pytest.mark.parametrize("stage", ["feature_field", "agglomeration"])
def test_features_learn_next_to_a_density_that_stays(stage: str, trainings: Trainings) -> None:
    stored, weights = Checkpoint.read(trainings.checkpoint(stage)), trainings.bundle().load_weights()
    field = stored.field_of(FeatureField)
    assert stored.half_resolution
    for name, value in field.density.named_parameters():
        assert torch.equal(value, torch.from_numpy(weights[name]).float()), name
    content = torch.load(stored.file, weights_only=True)["state_dict"]
    if stage == "agglomeration":
        assert field.teachers == ("text", "dino")
        assert stored.configuration["teachers"]["text"]["text_encoder"] == "tiny/text"
        assert all(float(content[f"uncertainty.logarithms.{number}"]) != 0.0 for number in range(2))
        assert make_stage(trainings.configuration(stage)).uncertainty.regulariser == "log1p"
        assert field.centres["dino"].any() and not field.centres["text"].any()
    expected = {"field.output_layer.weight"}
    expected |= {"downsampler.scale", "artefacts.values"} if stage == "feature_field" else set()
    assert expected <= learned(trainings, stage)


def test_semantics_learn_on_a_field_that_stays(trainings: Trainings, tmp_path: Path) -> None:
    """With forces that are estimated, or with those of KITTI-360."""
    before, after = (Checkpoint.read(trainings.checkpoint(stage)) for stage in ("feature_field", "semantics"))
    given = Checkpoint.read(train(trainings.configuration("semantics", tmp_path, forces="kitti_360", steps=3)))
    # Whatever its configuration says, it looks through the field that it was given.
    assert after.half_resolution and after.field_of(FeatureField).density.hidden == HIDDEN
    contents = [torch.load(stored.file, weights_only=True)["state_dict"] for stored in (after, given)]
    assert [bool(content["forces_values"].isnan().all()) for content in contents] == [False, True]
    assert int(contents[0]["buffer.filled"]) == 8
    for name, value in before.state.items():
        assert torch.equal(contents[0][f"field.{name}"], value), name
    assert contents[0]["link.offset"].item() == pytest.approx(before.link["offset"].item())
    head = after.distillation_head()
    assert head is not None and head.linear.in_features == before.field_of(FeatureField).target_size
    assert "head.linear.weight" in learned(trainings, "semantics")


def test_training_can_go_on_from_the_shipped_student(tmp_path: Path) -> None:
    bundle = StudentBundle.load(DEFAULT_BUNDLE)
    stage = make_stage(read_configuration(CONFIGS / "single_view.yaml", ["pretrained=false"], Configuration))
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


class ToyStage(SingleImageStage):
    """Learns that nothing is there."""

    def __init__(self, settings: Configuration) -> None:
        super().__init__(settings)
        self.field = DensityField(self.camera, encoder=self.make_encoder())

    def weights(self) -> dict[str, float]:
        """There is one loss."""
        return {"density": 1.0}

    def terms(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The mean density."""
        return {"density": self.observe(batch).density(batch["points"]).mean()}


def test_a_line_adds_a_stage(synthetic_drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "toy", f"{__name__}:ToyStage")
    settings = small_training(synthetic_drive, tmp_path / "whole", steps=2, stage="toy")
    file = write_configuration(tmp_path / "toy.yaml", Configuration(**settings))
    whole = train(read_configuration(file, [], Configuration))
    read = Checkpoint.read(whole)
    assert read.stage == "toy" and isinstance(read.field_of(DensityField), DensityField)
    monkeypatch.delitem(STAGES, "toy")
    with pytest.raises(BundleError, match=r"stage 'toy' does not exist; scene_completion_ros \d.* wrote it"):
        Checkpoint.read(whole)
    with pytest.raises(ConfigurationError, match=r"toy\.yaml: stage 'toy' does not exist. There are single_view, teac"):
        read_configuration(file, [], Configuration)


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        ("single_view", {"ema_decay": 0.9, "ema_start": 24}, "ema_start"),
        ("single_view", {"views": {"aside": 1.5}}, "a share from 0 to 1"),
        ("single_view", {"views": {"aside": float("nan")}}, "a share from 0 to 1"),
        ("student", {"encoder_views": 5}, "^encoder_views:"),
        ("teacher", {"view_dropout": 50.0}, r"^view_dropout: 50\.0\. Take a share"),
        ("student", {"depth_only_steps": 2}, "^depth_only_steps:"),
        ("student", {"encoder": "resnet50"}, "^encoder:"),
        ("student", {"checkpoint_every": 4, "ema_decay": 0.5}, "^ema_start:"),
        ("feature_field", {"features": FeatureSettings()}, "features: neither precomputed targets nor a model"),
        ("feature_field", {"features": {"cell": 8}}, "cell"),
        ("feature_field", {"features": FeatureSettings(cell=12, rays=8)}, r"features\.cell: 12 pixels"),
        ("feature_field", {"features": FeatureSettings(own_view=1.0)}, r"features\.own_view: 1\.0"),
        ("feature_field", {"features": {"rays": 1}}, "features.rays.*has no neighbours"),
        ("feature_field", {"features": {"upsampled": True}}, "features.artefacts: artefacts lie on the grid of tokens"),
        ("feature_field", {"features": {"upsampled": True, "artefacts": False}}, "upsampled 1, asked for 4"),
        ("feature_field", {"start_from": ""}, "start_from: the density is to stay"),
        ("semantics", {"features_from": ""}, "features_from: no feature field"),
        ("semantics", {"distilled": False, "steps": 1, "knn": False}, "distilled: without a head nothing is learned"),
        ("semantics", {"crops": "five_squares", "crop_points": 15}, "crop_points: 15 points fill no square"),
        ("agglomeration", {"start_from": ""}, "start_from"),
        ("agglomeration", {"teachers": []}, "teachers"),
        ("agglomeration", {"teachers": ["a", "a"]}, "teachers"),
        ("agglomeration", {"teachers": ["a.b"]}, "teachers"),
        ("agglomeration", {"teachers": ["a"], "points": 0}, "one point or more"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    stage: str, changes: dict[str, Any], words: str, trainings: Trainings, tmp_path: Path
) -> None:
    changes = dict(changes)
    data, targets = small_data(trainings.drive), trainings.features.targets
    views = dataclasses.replace(data.views, **changes.pop("views", {}))
    changes["data"] = dataclasses.replace(data, views=views, distinct_samples=changes.pop("distinct_samples", 0))
    if isinstance(changes.get("features"), dict):
        changes["features"] = dataclasses.replace(trainings.features, **changes["features"])
    if "teachers" in changes:
        teachers = [StoredTeacher(name, targets=targets) for name in changes.pop("teachers")]
        changes["agglomeration"] = AgglomerationSettings(teachers, points=changes.pop("points", 1))
    with pytest.raises(ConfigurationError, match=words):
        train(trainings.configuration(stage, tmp_path, **changes))


def test_what_does_not_belong_together_is_refused(trainings: Trainings, tmp_path: Path) -> None:
    """Stages that are not deployed or hold no features, weights of another network, targets that are not mirrored."""
    with pytest.raises(BundleError, match="stage is teacher"):
        export_bundle(trainings.checkpoint("teacher"), tmp_path, name="t", licence="none", provenance={})
    with pytest.raises(BundleError, match=r"no FeatureField in it: its stage is single_view.*`feature_field` or `sem"):
        Checkpoint.read(trainings.checkpoint("single_view")).field_of(FeatureField)
    features = dataclasses.replace(trainings.features, units=32)
    before = str(trainings.checkpoint("feature_field"))
    with pytest.raises(BundleError, match="weights of another network"):
        train(trainings.configuration("feature_field", tmp_path, features=features, start_from=before))
    (tmp_path / "one").mkdir()
    manifest = FeatureStore.open(Path(trainings.features.targets)).manifest
    dataclasses.replace(manifest, variants=1).write(tmp_path / "one" / "manifest.json")
    one = AgglomerationSettings([StoredTeacher("a", targets=str(tmp_path / "one"))])
    with pytest.raises(ConfigurationError, match="mirrored"):
        make_stage(trainings.configuration("agglomeration", tmp_path, agglomeration=one))


# What all stages share: samples and arithmetic.


def test_the_prior_is_fitted_without_an_image_through_the_link_training_starts_with(synthetic_drive: Path) -> None:
    """A student has its teacher's link; a prior fitted through another one says something else under it."""
    data = dataclasses.replace(small_data(synthetic_drive), views=ViewSettings(occupancy_points=1024))
    served = SequencesData(data, 1, 0, viewpoint=VIEWPOINT)
    served.setup("fit")
    samples = served.samples().unmirrored()
    torch.manual_seed(0)
    field, link = DensityField(VIEWPOINT.camera).eval(), OccupancyLink(-1.0)
    with torch.no_grad():
        link.log_scale.fill_(-1.0)
    before = {name: value.clone() for name, value in link.state_dict().items()}
    found = [samples.occupancy(4 * 200 + i) for i in range(8)]
    points, target, weight = (torch.cat([one[key] for one in found])[None] for key in ("points", "target", "weight"))

    def losses(link: OccupancyLink) -> tuple[float, float]:
        """Of what is known without an image, and of what an image shows that the encoder does not know yet."""
        with torch.no_grad():
            logits = field.prior_logit(points), field.observe(samples[7]["image"][None]).density_logit(points)
            without, shown = (occupancy_cross_entropy(link(one), target, weight).item() for one in logits)
        return without, shown

    start, reported, after = losses(link), fit_prior(field, link, served.samples(), 200), losses(link)
    assert after[0] < 0.8 * start[0] and after[1] < 0.8 * start[1], (start, after)
    assert after[0] < 1.25 * reported < 0.8 * losses(OccupancyLink())[0]
    assert torch.all(field.density_layer.weight[:, : len(DEPTH_UNITS)] == 0)  # no image, no use for its depth
    assert all(torch.equal(value, before[name]) for name, value in link.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in link.parameters())
