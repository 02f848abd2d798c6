"""The supervised upper bound: which voxels it sees, what it learns, how it is scored, what is refused."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ConfigurationError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.commands import evaluate_semantics
from scene_completion_training.data.module import DataSettings, SequencesData, SequenceSource
from scene_completion_training.data.prepared import PreparedFrame
from scene_completion_training.data.view_batches import MIRROR, DataNeeds, ViewSamples, ViewSettings
from scene_completion_training.data.voxel_evidence import POINT_UNIT, FusionSettings
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel
from scene_completion_training.export import export_bundle
from scene_completion_training.losses.occupancy import class_cross_entropy
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import ClassField, FeatureField
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.semantics import SemanticsConfiguration
from scene_completion_training.stages.single_view import SingleViewConfiguration
from scene_completion_training.stages.supervised import SupervisedConfiguration, SupervisedStage
from scene_completion_training.street_world.camera_rig import make_rig
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.evaluation.one_wall import GRID
from tests.training.saved_checkpoint import save_checkpoint
from tests.training.small_trainings import batches, learn, small_training

CLASSES = len(COMMON_CLASSES) - 1


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of a training town, and the same as those of a validation town, with their exact voxels."""
    folder = tmp_path_factory.mktemp("towns")
    StreetDrive(1, 2, make_rig(208, 63), GRID, supersampling=1).sequence(("voxels", "depth")).save(folder / "taught")
    shutil.copytree(folder / "taught", folder / "asked")
    file = folder / "asked" / "sequence.json"
    content = json.loads(file.read_text())
    content["provenance"]["role"] = "validation"
    file.write_text(json.dumps(content))
    return folder


def _data(towns: Path, *, exact: bool = True) -> DataSettings:
    return DataSettings(
        root=str(towns),
        cache=str(towns / "cache"),
        workers=0,
        sources=[SequenceSource("taught", exact=exact)],
        fusion=FusionSettings(free_samples=20_000, views=2, kept=20_000),
        views=ViewSettings(occupancy_points=64),
    )


def _configuration(towns: Path, student: Path | None, output: Path, **changes: object) -> SupervisedConfiguration:
    changes = {"data": _data(towns), "start_from": student and str(student), "label_points": 512, **changes}
    return SupervisedConfiguration(**small_training(towns, output, **changes))


@pytest.fixture(scope="module")
def student(towns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    checkpoint = train(SingleViewConfiguration(**small_training(towns, folder / "run", data=_data(towns), steps=2)))
    export_bundle(checkpoint, folder / "bundle", name="t", licence="none", provenance={})
    return folder / "bundle"


@pytest.fixture(scope="module")
def trained(towns: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(_configuration(towns, student, tmp_path_factory.mktemp("runs") / "taught"))


@pytest.fixture(scope="module")
def frames(towns: Path) -> list[PreparedFrame]:
    data = SequencesData(_data(towns), 1, 0, DataNeeds(label_points=64))
    data.setup("fit")
    return data.frames[0]


def test_the_loss_by_hand() -> None:
    """Two points count: one that is undecided between three classes, one that is e² to 1 to 1 for the right one."""
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 0.0, 0.0]]], requires_grad=True)
    classes = torch.tensor([[1, 0, 2]])
    counted = torch.tensor([[True, True, False]])
    expected = (math.log(3.0) + math.log(math.e**2 + 2.0) - 2.0) / 2.0
    assert class_cross_entropy(logits, classes, counted).item() == pytest.approx(expected)
    nothing = class_cross_entropy(logits, classes, torch.zeros_like(counted))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert nothing.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_rare_classes_are_drawn_more_often_than_they_occur(frames: list[PreparedFrame]) -> None:
    """Of 400 voxels of one class and 25 of another, one in five drawn is of the other: 20 to 5."""
    label = np.zeros(len(frames[0].points), np.uint8)
    label[:400], label[400:425], label[425:500] = 7, 13, 255
    frame = dataclasses.replace(frames[0], label=label)
    assert frame.labelled.tolist() == list(range(425))
    samples = ViewSamples([[frame]], ViewSettings(occupancy_points=8), DataNeeds(label_points=20_000), seed=0, length=1)
    drawn = samples[0]["label_classes"]
    assert set(drawn.tolist()) == {6, 12}
    assert (drawn == 12).float().mean().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("mirror", [False, True])
def test_labelled_points_lie_where_the_encoder_sees_them(frames: list[PreparedFrame], mirror: bool) -> None:
    settings = ViewSettings(occupancy_points=8, mirror=mirror)
    samples = ViewSamples([frames], settings, DataNeeds(label_points=300), seed=0, length=20)
    found = set()
    for number in range(20):
        draw, sample = samples._draw(number, np.random.default_rng((0, number))), samples[number]
        frame = draw.frames[draw.index]
        points = sample["label_points"].numpy() @ (MIRROR if draw.mirror else np.eye(3))
        left = (frame.world_from_camera["left"].inverse() @ draw.encoder_from_world.inverse()).apply(points)
        stored = np.round(np.asarray(left) / POINT_UNIT).astype(np.int64)
        place = {tuple(point): label for point, label in zip(frame.points.tolist(), frame.label, strict=True)}  # type: ignore[arg-type]
        assert [place[tuple(point)] - 1 for point in stored.tolist()] == sample["label_classes"].tolist()
        found.add(draw.mirror)
    assert found == ({False, True} if mirror else {False})


def test_it_learns_classes_and_leaves_the_density(towns: Path) -> None:
    torch.manual_seed(0)
    stage = SupervisedStage(SupervisedConfiguration(pretrained=False, half_resolution_steps=1))
    assert stage.field.target_size == CLASSES
    assert not any(p.requires_grad for p in stage.field.density.parameters())
    (batch,) = batches(_data(towns), 1, label_points=512)
    found = learn(stage, batch, "classes", steps=20, rate=3e-3)
    assert set(found[0]) == set(stage.weights())
    losses = [terms["classes"] for terms in found]
    assert losses[0] == pytest.approx(math.log(CLASSES), abs=0.7) and losses[-1] < 0.7 * losses[0]
    beside = {**batch, "label_points": batch["label_points"] * torch.tensor([1.0, 1.0, -1.0])}
    assert stage.terms(beside, torch.Generator())["classes"].item() == 0.0  # behind the camera


def test_the_command_scores_it_beside_others(
    towns: Path,
    student: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Alone it needs neither recordings to cluster nor such to name; beside a feature field it is a row."""
    monkeypatch.setattr(evaluate_semantics, "CLUSTERS", 3)
    asked = ["evaluate", "semantics", "--student", str(student), "--data", str(towns / "asked"), "--every", "1"]
    assert main([*asked, "--checkpoint", str(trained), "--output", str(tmp_path / "alone")]) == 0
    assert {entry["method"] for entry in _scores(tmp_path / "alone")} == {"taught (learned from labels)"}
    torch.manual_seed(0)
    field = FeatureField(DensityField(STREET_CAMERA), target_size=8, channels=4, units=6, expansion=5)
    other = save_checkpoint(tmp_path / "random" / "checkpoints" / "last.ckpt", field, "feature_field")
    both = [*asked, "--checkpoint", str(trained), str(other), "--prior"]
    both += ["--output", str(tmp_path)]
    assert main(both) == 2 and main([*both, "--cluster-on", str(towns / "taught")]) == 2
    said = capsys.readouterr().err
    assert "--cluster-on: nothing to cluster" in said and "--name-on: no labelled recordings" in said
    folders = ["--cluster-on", str(towns / "taught"), "--name-on", str(towns / "taught")]
    assert main([*both, *folders]) == 0
    entries = _scores(tmp_path)
    methods = ["random", "taught (learned from labels)", "class prior of the voxel"]
    assert list(dict.fromkeys(entry["method"] for entry in entries)) == methods
    # The same density everywhere: what is occupied has the same score in every row.
    far = [entry for entry in entries if entry["range_m"] == 51.2]
    assert len(far) == 3 and len({entry["iou"] for entry in far[1:]}) == 1
    assert "taught (learned from labels)" in capsys.readouterr().out


def _scores(folder: Path) -> list[dict[str, object]]:
    scores: list[dict[str, object]] = json.loads((folder / "results.json").read_text())["scores"]["semantics"]
    return scores


def test_what_cannot_be_is_refused(towns: Path, student: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"start_from: the density is to stay.*Name a student$"):
        train(_configuration(towns, None, tmp_path / "a"))
    with pytest.raises(SequenceError, match="no frame has labelled voxels"):
        train(_configuration(towns, student, tmp_path / "b", data=_data(towns, exact=False)))
    for opened in (
        lambda: FeatureFieldModel.open(trained),
        lambda: make_stage(SemanticsConfiguration(features_from=str(trained))),
    ):
        with pytest.raises(BundleError, match="no FeatureField in it: its stage is supervised, which trains a Class"):
            opened()
    with pytest.raises(BundleError, match="no ClassField in it: its stage is single_view.*with stage `supervised`"):
        Checkpoint(tmp_path / "x.ckpt", {}, {}).field_of(ClassField)
