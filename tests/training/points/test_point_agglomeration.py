"""The agglomeration on points learns what teachers say of rooms, resumes, and is scored as CUA-O3D is."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import read_configuration
from scene_completion_training.evaluation.probes import PointModel
from scene_completion_training.foundation import encoded_words
from scene_completion_training.points.data import (
    LiftingSettings,
    PixelTeacher,
    PointDataSettings,
    PointSamples,
    PointSource,
    phrases,
)
from scene_completion_training.points.opening import Scenes
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.agglomeration import PointAgglomerationConfiguration
from tests.training.points.rooms import CAMERA, CLASSES, room, save_features
from tests.training.points.test_lifting import bank
from tests.training.small_trainings import FEW

DIM = 8


def words(folder: Path, name: str, noise: float) -> PixelTeacher:
    """A teacher that gives the embeddings of the classes with noise."""
    for seed in range(3):
        scene = room(seed, step=0.15, views=3)
        save_features(folder / name, scene, bank(DIM).rows(phrases(scene.classes)), noise)
    return PixelTeacher(name, dim=DIM, model=f"files:{folder / name}")


def training(folder: Path, tiny: Path, **changes: Any) -> PointAgglomerationConfiguration:
    """Few steps on two rooms, with a teacher that knows words and one that sees pixels."""
    labels = words(folder, "text", 0.05)
    cache, sources = str(folder / "lifted"), [PointSource("train")]
    settings: dict[str, Any] = FEW | {
        "steps": 2,
        "seed": 3,
        "learning_rate": 2e-3,
        "data": PointDataSettings(sources=sources, voxel_size=0.15, cache=cache, batch_size=1, workers=0),
        "lifting": LiftingSettings(width=CAMERA.width, tolerance=0.05, border=2),
        "teachers": [labels, PixelTeacher("dino", "l1", dim=32, model=str(tiny), cell=8)],
        "output": str(folder / "run"),
    }
    return PointAgglomerationConfiguration(**settings | changes)


pytestmark = pytest.mark.usefixtures("small_trunk")


@pytest.mark.usefixtures("two_rooms")
def test_a_training_learns_both_teachers_and_doubts_the_noisy_one(tmp_path: Path, tiny_dinov2: Path) -> None:
    teachers = [words(tmp_path, "clean", 0.0), words(tmp_path, "noisy", 1.0)]
    stage = make_stage(training(tmp_path, tiny_dinov2, teachers=teachers))
    data = stage.make_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    rates = [{"params": stage.field.parameters()}, {"params": stage.uncertainty.parameters(), "lr": 0.05}]
    optimiser = torch.optim.Adam(rates, 5e-3)
    losses = []
    for _ in range(40):
        terms = stage.terms(batch, torch.Generator())
        optimiser.zero_grad()
        terms["agglomeration"].backward()
        optimiser.step()
        losses.append(terms)
    assert losses[-1]["teacher_clean"] < 0.3 * losses[0]["teacher_clean"]
    doubts = stage.uncertainty.uncertainties
    assert doubts["noisy"] > doubts["clean"] + 0.02


@pytest.mark.usefixtures("two_rooms")
def test_a_sample_follows_from_its_number(tmp_path: Path, tiny_dinov2: Path) -> None:
    data = make_stage(training(tmp_path, tiny_dinov2)).make_data()
    data.setup("fit")
    scenes = list(data.scenes.values())
    samples = PointSamples(scenes, data.settings, seed=0, length=8)
    sample, again = samples[5], samples[5]
    assert all(torch.equal(sample[name], again[name]) for name in sample)
    assert len(sample["inputs"]) == len(sample["voxel_index"]) and (sample["inputs"] == 1.0).all()
    known = int(sample["known"].sum())
    assert 0 < known == len(sample["target/text"]) == len(sample["target/dino"]) < len(sample["known"])


@pytest.mark.usefixtures("two_rooms")
def test_a_checkpoint_is_scored_by_words_and_probes_on_another_room(
    tmp_path: Path, tiny_dinov2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scene_completion_training.evaluation.probes.PROBE_STEPS", 40)
    monkeypatch.setattr("scene_completion_training.evaluation.probes.REPEATS", 2)
    monkeypatch.setattr("scene_completion_training.commands.evaluate_points.PROBED", 60)
    monkeypatch.setattr(encoded_words, "TextEncoder", lambda model: model)
    monkeypatch.setattr(encoded_words, "make_bank", lambda encoder, phrases: bank(DIM))
    checkpoint = train(training(tmp_path, tiny_dinov2), threads=1)
    arguments = ["evaluate", "points", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "test")]
    arguments += ["--text-encoder", "any", "--cache", str(tmp_path / "lifted"), "--probe-on", str(tmp_path / "train")]
    arguments += ["--output", str(tmp_path / "scores"), "--ambiguity", "--pictures", str(tmp_path / "pictures")]
    arguments += ["--foundation", str(tiny_dinov2), "1"]
    assert main(arguments) == 0
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    rows = {row["method"]: row for row in scores["points"]}
    probes = ["trunk", "head text", "head dino", "concatenation", "average of the heads' logits"]
    by_words = {"3D", "2D, lifted", *(f"2D and 3D, {rule}" for rule in ("mean", "max", "raw mean"))}
    named = by_words | {f"probe, {one}" for one in probes} | {"random weights, probe, trunk"}
    frozen = {name.rpartition(", ")[0]: row for name, row in rows.items() if name not in named}  # by frozen features
    assert named < set(rows) and set(frozen) == {f"{tiny_dinov2.name}, lifted", "run, trunk", "colour alone"}
    assert frozen["colour alone"]["voxels"] == rows["3D"]["voxels"] and len(rows) == len(named) + 3 * 3
    ambiguity = {row["method"]: row for row in scores["ambiguity"]}
    assert ambiguity["teacher text"]["variance"] < 0.02 < ambiguity["teacher dino"]["variance"] < 1.0
    assert set(ambiguity["teacher text"]["class_variance"]) == set(CLASSES)
    pictures = {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert len(pictures) == len(named) + 2
    assert pictures > {"rooms_5_classes_room_2", "uncertainty", "confusion_rooms_5_classes_2D_and_3D_raw_mean"}
    scene = room(2, step=0.15, views=3)
    lifted = rows["2D, lifted"]
    assert lifted["voxels"] == len(scene) and 0 < lifted["without_feature"] < len(scene)
    assert lifted["released_mean_iou"] > 0.9 > lifted["mean_iou"]  # labels are nearly exact where a view sees
    assert rows["2D and 3D, mean"]["without_feature"] == rows["3D"]["without_feature"] == 0
    assert rows["2D and 3D, max"]["accuracy"] > rows["3D"]["accuracy"]
    model = PointModel(checkpoint)
    unchanged = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert [level.shape for level in model.features(scene)] == [(len(scene), 24), (len(scene), DIM), (len(scene), 32)]
    assert all(torch.equal(value, unchanged[name]) for name, value in model.network.state_dict().items())  # S6
    with pytest.raises(ConfigurationError, match="embeddings of 7 numbers, features of 8, 32"):
        model.teacher_of(np.zeros((2, 7), np.float32))
    model._input = "colour"
    with pytest.raises(ConfigurationError, match="scene room 2: has no colours, which the network takes"):
        model.features(replace(scene, colours=None))
    moved = Scenes("rooms", (), {"room 2": lambda: replace(scene, points=scene.points + 1.0)})
    with monkeypatch.context() as other:
        other.setattr("scene_completion_training.points.data.open_scenes", lambda path, **_: moved)
        assert main([*arguments[:-7], str(tmp_path / "none")]) == 2
    assert "--cache, room 2: its kept features are of other points" in capsys.readouterr().err
    places = {"train": room(0, step=0.15, views=3), "test": replace(scene, classes=(*CLASSES, "door"))}
    monkeypatch.setattr(
        "scene_completion_training.points.data.open_scenes",
        lambda path, **_: Scenes("rooms", (), {"a": lambda: places[path.name]}),
    )
    assert main([*arguments[:-7], str(tmp_path / "none")]) == 2
    assert "a: its classes are not those of --probe-on" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_teachers_of_a_row_of_the_ablations_are_chosen_by_name(tmp_path: Path, tiny_dinov2: Path) -> None:
    given = training(tmp_path, tiny_dinov2, only=["dino"], demean=False, regulariser="none")
    given.teachers[1].loss = "demeaned_cosine"
    stage = make_stage(given)
    assert [(teacher.name, teacher.loss) for teacher in stage.settings.teachers] == [("dino", "cosine")]
    assert list(stage.field.heads.dims) == ["dino"] and stage.uncertainty.regulariser == "none"
    assert given.completed().completed() == given.completed() != given


def test_the_rate_falls_by_a_power_of_what_is_left(tmp_path: Path, tiny_dinov2: Path) -> None:
    stage = make_stage(training(tmp_path, tiny_dinov2, steps=100, checkpoint_every=100))
    factors = [stage.polynomial(step) for step in (0, 50, 100)]
    assert factors == pytest.approx([1.0, 0.5**0.9, 0.0])


@pytest.mark.parametrize(("given", "rate"), [(0.0, 1e-3), (0.02, 0.02)])
def test_uncertainties_may_have_a_rate_of_their_own(
    given: float, rate: float, tmp_path: Path, tiny_dinov2: Path
) -> None:
    stage = make_stage(training(tmp_path, tiny_dinov2, learning_rate=1e-3, uncertainty_rate=given))
    groups = stage.configure_optimizers()["optimizer"].param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    own = {id(parameter) for parameter in stage.uncertainty.parameters()}
    assert {rates[name] for name in own} == {rate}  # the first step has the whole rate
    assert {of for name, of in rates.items() if name not in own} == {1e-3}
    assert len(rates) == sum(1 for _ in stage.parameters())


@pytest.mark.usefixtures("two_rooms")
def test_what_cannot_be_is_refused(tmp_path: Path, tiny_dinov2: Path) -> None:
    for changes, expected in (
        ({"teachers": []}, "teachers"),
        ({"lifting": LiftingSettings(width=0)}, "lifting"),
        ({"data": PointDataSettings(voxel_size=0.0)}, "data.voxel_size"),
        ({"teachers": [PixelTeacher("a", dim=0)]}, "teachers: dim"),
        ({"only": ["text", "clip", "sd"]}, r"only: no teacher clip, sd. There are text, dino"),
    ):
        with pytest.raises(ConfigurationError, match=expected):
            make_stage(training(tmp_path, tiny_dinov2, **changes))
    wrong = training(tmp_path, tiny_dinov2)
    wrong.teachers[1].dim = 31
    with pytest.raises(ConfigurationError, match="32 numbers, not 31"):
        make_stage(wrong).make_data().setup("fit")
    with pytest.raises(ConfigurationError, match="names no scenes"):
        make_stage(training(tmp_path, tiny_dinov2, data=PointDataSettings())).make_data().setup("fit")
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"field.x": torch.zeros(1)}, "scene_completion_training": {}}, other)
    with pytest.raises(BundleError, match="no network of points in it"):
        PointModel(other)


@pytest.mark.usefixtures("two_rooms")
def test_the_published_configuration_trains_on_small_rooms(tmp_path: Path, tiny_dinov2: Path) -> None:
    """With their own comparisons; models are small, and what no model says here lies in files."""
    small = training(tmp_path, tiny_dinov2)
    given = read_configuration(CONFIGS / "full_size" / "cua_o3d_scannet.yaml", [], PointAgglomerationConfiguration)
    maps = np.random.default_rng(0).normal(size=(5, 6, 8)).astype(np.float16)
    for seed, number in itertools.product((0, 1), range(3)):
        file = tmp_path / "maps" / f"room {seed}" / f"view_{number}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, maps)
    in_files = 5, f"files:{tmp_path / 'maps'}"
    models = {"files": in_files, "diffusion": in_files}
    teachers = []
    for teacher in given.teachers:
        dim, model = models.get(teacher.model.partition(":")[0], (32, str(tiny_dinov2)))
        teachers.append(replace(teacher, dim=dim, model=model, layer=-1))
    assert [teacher.loss for teacher in teachers] == ["cosine", "l1", "demeaned_cosine"]
    lifting = replace(given.lifting, width=CAMERA.width, border=2)
    changes = {"steps": 2, "checkpoint_every": 2, "teachers": teachers, "lifting": lifting, "output": small.output}
    checkpoint = train(replace(given, data=replace(small.data, input=given.data.input), **changes), threads=1)
    assert list(PointModel(checkpoint).teachers) == [teacher.name for teacher in given.teachers]
