"""What students learn of teachers and features of foundation models, and how both are deployed."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, TrainingError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.clustering import (
    CLASS_COLOURS,
    CLASS_FILE,
    CLUSTER_FILE,
    Clusters,
    write_class_file,
    write_clusters,
)
from scene_completion_training.configuration import LossWeights, TrainingConfiguration, read_configuration
from scene_completion_training.data.module import SequencesData
from scene_completion_training.data.view_batches import DataNeeds
from scene_completion_training.export import FoldedEncoder, encoder_onnx, export_bundle, export_labelled
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.networks import feature_field
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField, MultiViewField, sample_map
from scene_completion_training.networks.feature_field import CropBuffer, FeatureField, FeatureObservation
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.agglomeration import AgglomerationStage
from scene_completion_training.stages.density import DistillationSettings, StudentStage
from scene_completion_training.stages.feature_field import RADIUS_M, FeatureFieldStage, SemanticsStage
from tests.training.small_trainings import (
    HIDDEN,
    VIEWPOINT,
    Trainings,
    batches,
    learn,
    small_data,
    write_configuration,
)
from tests.training.synthetic_scene import FOCAL, WIDTH


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
    configuration = trainings.configuration("student", losses=LossWeights(*[0.0] * 6), distillation=distillation)
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


# The stages `feature_field` and `agglomeration`: what they learn of foundation models, and labels on the robot.


CAMERA = VIEWPOINT.camera
HALF = (1, 3, CAMERA.height // 2, CAMERA.width // 2)
WHOLE = (1, 3, CAMERA.height, CAMERA.width)


@pytest.mark.parametrize(
    ("kind", "loss", "watched", "left"),
    [("feature_field", "feature", "feature", 0.3), ("agglomeration", "agglomeration", "teacher_text", 0.4)],
)
def test_targets_can_be_learned(kind: str, loss: str, watched: str, left: float, trainings: Trainings) -> None:
    """The same places again and again: from no agreement with the tokens to most, while the density stays."""
    torch.manual_seed(0)
    stage = make_stage(trainings.configuration(kind))
    stage.load(str(trainings.bundle().folder))
    together = isinstance(stage, AgglomerationStage)
    (batch,) = batches(small_data(trainings.drive), 1, targets=stage.data_needs().targets)
    if together:
        stage.fit_targets([{name: value[0] for name, value in batch.items()}])
    losses = learn(stage, batch, loss, steps=25, rate=5e-3)
    assert losses[0][watched] > 0.5 and losses[-1][watched] < left * losses[0][watched]
    assert not together or losses[-1]["teacher_dino"] < losses[0]["teacher_dino"]
    assert all(parameter.grad is None for parameter in stage.field.density.parameters())


@pytest.fixture
def field() -> AgglomeratedField:
    """One with random weights."""
    torch.manual_seed(0)
    density = DensityField(CAMERA, hidden=HIDDEN)
    nn.init.normal_(density.encoder.project.weight, std=0.1)
    return AgglomeratedField(density, {"text": 10, "dino-s": 12}, channels=16, units=20).eval()


def test_a_teachers_space_is_a_linear_map_of_the_units(field: AgglomeratedField) -> None:
    """What the robot computes from the units is what the heads say."""
    seen = field.observe(255.0 * torch.rand(WHOLE))
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
    image = 255.0 * torch.rand(WHOLE)
    with torch.no_grad():
        before = field.observe(image)
        field.density.encoder.prior += 0.5
        after = field.observe(image)
        assert not torch.allclose(before.features_map, after.features_map)
        folded = FoldedEncoder(field, CAMERA)(image)
    expected = after.features_map.permute(0, 2, 3, 1)
    assert torch.allclose(folded[..., HIDDEN:], expected, atol=1e-4 * float(expected.abs().max()))
    session = onnxruntime.InferenceSession(encoder_onnx(field, CAMERA), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})[0]
    assert np.abs(found[..., HIDDEN:] - expected.numpy()).max() < 5e-3 * float(expected.abs().max())


def test_features_are_those_of_tokens_less_their_mean(trainings: Trainings) -> None:
    """The mean is that of the drive's tokens, and travels with the checkpoint; what was learned has it taken off."""
    targets = {"": FeatureStore.open(Path(trainings.features.targets))}
    data = SequencesData(small_data(trainings.drive), 64, 0, DataNeeds(targets=targets), viewpoint=VIEWPOINT)
    data.setup("fit")
    samples = [data.samples()[index] for index in range(16)]
    mean = torch.stack([sample["features"].float().mean(dim=(0, 2, 3)) for sample in samples]).mean(dim=0)
    found = Checkpoint.read(trainings.checkpoint("feature_field")).field_of(FeatureField).target_mean
    assert found.norm() > 0.1  # far from none
    assert (found - mean).norm() < 0.1 * mean.norm()  # the training looked at four samples
    whole = dataclasses.replace(trainings.features, centred=False)
    stage = make_stage(trainings.configuration("feature_field", features=whole))
    stage.centre(samples)
    assert not stage.field.target_mean.any()
    # Tokens with something added to all of them, and that taken off as their mean, are the same targets.
    (batch,) = batches(small_data(trainings.drive), 1, targets=targets)

    def loss(targets: torch.Tensor) -> float:
        terms = stage.terms({**batch, "features": targets}, torch.Generator().manual_seed(5))
        return terms["feature"].item()

    before, moved = loss(batch["features"]), batch["features"].float() + 3.0
    assert abs(loss(moved) - before) > 1e-3
    stage.field.target_mean.fill_(3.0)
    assert loss(moved) == pytest.approx(before, abs=1e-4)


# What ablations of SceneDINO change.


def test_upsampled_targets_are_computed_in_the_step(trainings: Trainings, tmp_path: Path) -> None:
    """And a checkpoint has no parts for tokens."""
    model = str(Path(trainings.features.targets).parent / "model")
    features = dataclasses.replace(trainings.features, targets="", model=model, rays=2)
    configuration = trainings.configuration("feature_field", tmp_path / "run", steps=2, features=features)
    file = write_configuration(tmp_path / "run.yaml", configuration)
    checkpoint = train(read_configuration(file, ["ablation.no_downsampler"], TrainingConfiguration))
    parts = {key.partition(".")[0] for key in torch.load(checkpoint, weights_only=True)["state_dict"]}
    assert not {"downsampler", "artefacts"} & parts


def feature_stage(trainings: Trainings, **changes: object) -> FeatureFieldStage:
    torch.manual_seed(0)
    features = dataclasses.replace(trainings.features, **changes)  # type: ignore[arg-type]
    stage = make_stage(trainings.configuration("feature_field", features=features))
    assert isinstance(stage, FeatureFieldStage)
    return stage


def test_ablated_losses_of_features(trainings: Trainings) -> None:
    """Without artefacts the loss is that with none; without smoothness it is that of the tokens alone."""
    stage, without = feature_stage(trainings), feature_stage(trainings, artefacts=False, smoothness=0.0)
    without.load_state_dict(stage.state_dict(), strict=False)
    (batch,) = batches(small_data(trainings.drive), 1, targets=stage.data_needs().targets)
    with torch.no_grad():
        terms, ablated = (each.terms(batch, torch.Generator().manual_seed(5)) for each in (stage, without))
        whole = 0.2 * terms["feature"] + 0.25 * terms["feature_smoothness"]
        assert torch.allclose(stage._total(terms), whole) and terms["feature"] != ablated["feature"]
        assert torch.equal(without._total(ablated), 0.2 * ablated["feature"]) and ablated["feature_smoothness"] > 0.0
        assert stage.artefacts is not None
        stage.artefacts.values.zero_()
        assert stage.terms(batch, torch.Generator().manual_seed(5))["feature"] == ablated["feature"]


def test_upsampled_targets_are_those_of_their_rays(trainings: Trainings, tmp_path: Path) -> None:
    """Nothing is lost where rays, row by row, are their targets; a ray that does not count loses nothing."""
    store = FeatureStore.open(Path(trainings.features.targets)).manifest
    dataclasses.replace(store, upsampled=2).write(tmp_path / "manifest.json")
    stage = feature_stage(trainings, targets=str(tmp_path), upsampled=True, artefacts=False, rays=2, centred=False)
    tokens = torch.randn(1, 3, stage.targets.dim, 8, 16)
    cells = torch.tensor([[[1, 5], [3, 0]]])  # of views 2 and 0
    rays = torch.stack([tokens[0, 2, :, 2:4, 10:12], tokens[0, 0, :, 6:8, 0:2]]).flatten(2).transpose(1, 2)
    given = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[2, 0]]), cells, {"features": tokens}
    assert stage._agreement(rays, *given).item() == pytest.approx(0.0, abs=1e-5)
    rays[1, 2] *= -1.0
    assert stage._agreement(rays, *given).item() == pytest.approx(2.0 / 8.0, abs=1e-5)
    given[0][1, 2] = False
    assert stage._agreement(rays, *given).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.usefixtures("few_points")
def test_where_the_points_of_crops_lie(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a ball; far beyond one without neighbourhoods; or along the rays of five squares, 32 samples each."""
    features, points = FeatureObservation.features, list[torch.Tensor]()

    def watched(self: FeatureObservation, where: torch.Tensor) -> torch.Tensor:
        points.append(where[0])
        return features(self, where)

    monkeypatch.setattr(FeatureObservation, "features", watched)
    (batch,) = batches(small_data(trainings.drive), 1, rendered=False)

    def asked(crops: str) -> list[torch.Tensor]:
        stage = make_stage(trainings.configuration("semantics", crops=crops))
        assert isinstance(stage, SemanticsStage)
        points.clear()
        found = stage.crops(batch, torch.Generator().manual_seed(0))
        assert found.shape == (5 if crops == "five_squares" else 3, 16, stage.field.target_size)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:2]))
        return list(points)

    spread = {crops: [float(torch.pdist(of).max()) for of in asked(crops)] for crops in ("balls", "surfaces")}
    assert max(spread["balls"]) <= 2.0 * RADIUS_M and min(spread["surfaces"]) > 6.0 * RADIUS_M
    assert [of.shape for of in asked("five_squares")] == [(5 * 16 * 32, 3)]


def test_a_crop_is_compared_with_others_and_never_taken_for_its_own_neighbour() -> None:
    """Five crops are pushed and then looked up: the four others are each a neighbour."""
    torch.manual_seed(0)
    crops = torch.nn.functional.normalize(torch.randn(5, 8, 16), dim=-1)
    buffer, generator = CropBuffer(6, 8, 16), torch.Generator().manual_seed(0)
    buffer.push(crops[:4])
    assert buffer.partners(crops[:4], generator) is None
    buffer.push(crops[4:])
    met = {number: set[int]() for number in range(5)}
    for _ in range(60):
        partners = buffer.partners(crops, generator)
        assert partners is not None
        for number, one in enumerate(partners[0]):
            met[number].add(int((crops - one).flatten(1).norm(dim=1).argmin()))
    assert met == {number: set(range(5)) - {number} for number in range(5)}


@pytest.mark.usefixtures("few_points")
def test_without_similar_crops_the_other_pairs_are_what_is_learned(trainings: Trainings) -> None:
    stage = make_stage(trainings.configuration("semantics", knn=False))
    (batch,) = batches(small_data(trainings.drive), 1, rendered=False)
    for seed in range(3):
        terms = stage.terms(batch, torch.Generator().manual_seed(seed))
    assert terms["similar"] != 0.0
    assert torch.allclose(stage._total(terms), terms["self"] + terms["random"])


def test_semantics_that_learned_nothing_say_so(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is occupied, or there were too few crops to compare with: of the last step there is no checkpoint."""
    monkeypatch.setattr(SemanticsStage, "occupied", lambda stage, logit: logit != logit)
    configuration = trainings.configuration("semantics", tmp_path / "empty", steps=3)
    what = "nothing was learned: 0 crops of 16 occupied points in 3 images, at most 0 in a neighbourhood. Train the "
    with pytest.raises(
        TrainingError, match=f"{what}density of {configuration.features_from} for more .*: it has no sur"
    ):
        train(configuration)
    assert Checkpoint.read(tmp_path / "empty" / "checkpoints" / "last.ckpt").steps == 2
    with pytest.raises(TrainingError, match="nothing was learned"):  # also where it goes on
        train(configuration)
    monkeypatch.undo()
    monkeypatch.setattr(feature_field, "NEAREST", 5)  # as many as one step has
    with pytest.raises(
        TrainingError, match=r"nothing was learned: [1-9].* in 1 images\. Crops are .*: take more steps"
    ):
        train(trainings.configuration("semantics", tmp_path / "one", steps=1, crops="five_squares"))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """What `classes` writes, of random points: three clusters, two of which have the same name."""
    folder = tmp_path / "classes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    units = np.abs(generator.normal(size=(600, 64))).astype(np.float16)
    codes = np.eye(3, dtype=np.float32)[np.argmax(units[:, :3], axis=1)]
    write_clusters(folder / CLUSTER_FILE, Clusters(np.eye(3, dtype=np.float32)), codes, units)
    write_class_file(folder / CLASS_FILE, ["road", "car", "road"], [0.5, 0.3, 0.2])
    return folder


def test_a_student_with_labels_is_deployed(trainings: Trainings, classes: Path, tmp_path: Path) -> None:
    """The density's channels stay, up to half precision; those of the features follow, with the label head."""
    plain, trained = trainings.bundle(), trainings.checkpoint("feature_field")
    labelled, agreement = export_labelled(trained, plain, classes, tmp_path / "labelled", name="l", licence="none")
    assert labelled.class_names == ("road", "car") and agreement > 0.9
    assert labelled.class_colours == (CLASS_COLOURS["road"], CLASS_COLOURS["car"])
    assert labelled.provenance["labels"]["agreement_with_clusters"] == pytest.approx(agreement, abs=1e-4)
    assert str(tmp_path.parent) not in str(labelled.provenance)  # no folder of the machine that trained it
    assert labelled.calibration == plain.calibration and labelled.threshold == plain.threshold
    image = 255.0 * torch.rand(HALF, generator=torch.Generator().manual_seed(0))
    sessions = [onnxruntime.InferenceSession(str(bundle.encoder_path)) for bundle in (labelled, plain)]
    found, before = (session.run(None, {"image": image.numpy()})[0] for session in sessions)
    assert found.shape == (1, HALF[2] // 2, HALF[3] // 2, HIDDEN + 64)
    assert np.abs(found[..., :HIDDEN] - before).max() < 1e-3 * np.abs(before).max()
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
    again = np.maximum(image_part + code @ head.label_positional_weight.T + head.label_hidden_bias, 0.0)
    assert again == pytest.approx(units, abs=1e-5)
    assert head.label_weight.shape == (2, 64)


def test_labels_of_another_student_are_refused(trainings: Trainings, classes: Path, tmp_path: Path) -> None:
    bundle, trained = trainings.bundle(), trainings.checkpoint("feature_field")
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
        export_labelled(trained, bundle, classes, tmp_path / "x", name="l", licence="none")
    (classes / CLUSTER_FILE).unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        export_labelled(trained, bundle, classes, tmp_path / "x", name="l", licence="none")
