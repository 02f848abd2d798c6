"""Networks of points learn classes from labels, from nothing or from masked scenes, and are scored as a row."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.evaluation.probes import SupervisedModel
from scene_completion_training.masked_scenes import POINT_FEATURES, SceneDataSettings, SceneSource, SceneViewSettings
from scene_completion_training.networks import supervised_points
from scene_completion_training.networks.supervised_points import SupervisedPoints
from scene_completion_training.points.data import PointDataSettings, PointSource
from scene_completion_training.points.opening import Scenes
from scene_completion_training.points.scene import PointScene, drawn_rows
from scene_completion_training.runner import make_stage, train
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.stages.masked_scene import MaskedSceneConfiguration
from scene_completion_training.stages.supervised_points import SupervisedPointsConfiguration
from tests.training.points.rooms import CLASSES, room, save_rooms
from tests.training.small_trainings import FEW

NARROW = HUNetSettings(len(POINT_FEATURES), (8, 12), (8, 12))
pytestmark = pytest.mark.usefixtures("small_trunk")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_completion_training.evaluation.probes.REPEATS", 2)


def training(folder: Path, **changes: Any) -> SupervisedPointsConfiguration:
    """Few steps on two rooms."""
    data = PointDataSettings(
        root=str(folder), sources=[PointSource("train")], voxel_size=0.15, input="colour", cache=str(folder / "kept"),
        batch_size=2, workers=0,
    )  # fmt: skip
    settings = FEW | {"steps": 2, "data": data, "hu_net": NARROW, "output": str(folder / "run")}
    return SupervisedPointsConfiguration(**settings | changes)


@pytest.mark.usefixtures("two_rooms")
@pytest.mark.parametrize("network", ["minkowski", "hu_net"])
def test_a_training_learns_the_classes_and_is_scored_as_a_row(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = training(tmp_path, network=network, steps=40, checkpoint_every=40, learning_rate=0.01)
    checkpoint = train(configuration, threads=1)
    assert Checkpoint.read(checkpoint).record["classes"] == list(CLASSES)
    command = ["evaluate", "points", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "test")]
    assert main([*command, "--output", str(tmp_path / "scores")]) == 0
    (row,) = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]["points"]
    assert row["method"] == "run, supervised" and row["without_feature"] == 0
    assert row["accuracy"] > 0.6 and row["mean_iou"] > 0.3
    model, scene, some = SupervisedModel(checkpoint), room(2, step=0.15), np.array([3, 40, 7])
    monkeypatch.setattr("scene_completion_training.evaluation.probes.REPEATS", 1)
    assert model.labels(scene, some).tolist() == model.labels(scene)[some].tolist()  # one voxelisation
    assert model.hierarchical == (network == "hu_net")
    other = dataclasses.replace(room(2, step=0.15), classes=(*CLASSES, "door"))
    with pytest.raises(ConfigurationError, match=r"its 6 classes are not the 5 that .* learned. Name the --labels"):
        SupervisedModel(checkpoint).labels(other)


def test_logits_of_a_point_are_those_of_its_voxel() -> None:
    torch.manual_seed(0)
    network = SupervisedPoints(supervised_points.MinkUNet18A(3), 4).eval()
    index = torch.tensor([[0, 2, 1, 0], [0, 0, 0, 0], [1, 2, 1, 0]])
    points = torch.tensor([[0, 2.9, 1.1, 0.5], [1, 2.1, 1.9, 0.0], [0, 2.0, 1.0, 0.9]])
    logits = network(index, torch.rand(3, 3), points)
    torch.testing.assert_close(logits[0], logits[2])
    assert not torch.allclose(logits[0], logits[1])


def test_a_share_of_the_scenes_and_some_points_are_those_of_the_probes(
    rooms: Callable[..., None], tmp_path: Path
) -> None:
    rooms("train", *range(4), step=0.15)
    none = make_stage(training(tmp_path, share=1.0, output=str(tmp_path / "none"))).make_data()
    with pytest.raises(ConfigurationError, match=r"share: 1 % of 4 scenes is none of them. Take 25\.0 or more"):
        none.setup("fit")
    data = make_stage(training(tmp_path, share=50.0, points=20)).make_data()
    data.setup("fit")
    chosen = sorted(np.random.default_rng(0).permutation(4)[:2].tolist())
    assert list(data.files) == [f"train/room {seed}" for seed in chosen]
    batch = next(iter(data.train_dataloader()))
    assert len(batch["target"]) == 2 * 20 and len(batch["inputs"]) > 500
    drawn = [room(seed, step=0.15) for seed in chosen]
    expected = np.concatenate([scene.label[drawn_rows(scene, 20)] for scene in drawn])
    np.testing.assert_array_equal(np.sort(batch["target"]), np.sort(expected))


def test_fine_tuning_starts_from_what_masked_scenes_taught(tmp_path: Path) -> None:
    save_rooms(tmp_path / "train", range(2), step=0.15)
    masked = SceneDataSettings(str(tmp_path), [SceneSource("train")], 0.1, str(tmp_path / "kept"), 1, 0)
    settings = {"steps": 1, "warmup": 1, "patch": 2, "network": NARROW, "views": SceneViewSettings(points=900)}
    first = train(MaskedSceneConfiguration(data=masked, output=str(tmp_path / "masked"), **settings), threads=1)
    given = training(tmp_path, start_from=str(first), steps=1, checkpoint_every=1, learning_rate=0.0)
    with pytest.raises(ConfigurationError, match=r"0.15 m, where .* has 0.1 m. Set it to 0.1"):
        make_stage(given)
    data = dataclasses.replace(given.data, voxel_size=0.1, sources=[PointSource("train", labels="scannet20")])
    tuned = Checkpoint.read(train(dataclasses.replace(given, data=data, hu_net=HUNetSettings(6)), threads=1))
    taught = Checkpoint.read(first).state
    assert tuned.configuration["network"] == "hu_net" and len(tuned.record["classes"]) == 20
    assert taught and all(torch.equal(tuned.state[f"trunk.{name}"], values) for name, values in taught.items())
    assert isinstance(SupervisedModel(tuned.file).network.trunk, VoxelHUNet)


def test_scenes_that_cannot_teach_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = room(0, step=0.15)
    one = dataclasses.replace(plain, label=np.zeros_like(plain.label))
    cases: list[tuple[list[PointScene], str]] = [
        ([dataclasses.replace(plain, label=None)], "room 0: has no labels"),
        ([one], "labels of 1 classes in 1 scenes. Name scenes with two"),
        ([dataclasses.replace(plain, colours=None)], r"scene train/0: has no colours. Take data.input=ones"),
        ([plain, dataclasses.replace(plain, classes=(*CLASSES, "a"))], "train/1: has other classes than train/0"),
    ]
    for number, (scenes, message) in enumerate(cases):
        readers: dict[str, Any] = {str(place): lambda of=scene: of for place, scene in enumerate(scenes)}
        opened = Scenes("rooms", (), readers)
        monkeypatch.setattr("scene_completion_training.points.data.open_scenes", lambda *_, of=opened, **__: of)
        given = training(tmp_path)
        given.data.cache = str(tmp_path / f"kept {number}")
        with pytest.raises((ConfigurationError, SequenceError), match=message):
            train(given, threads=1)
        assert not (tmp_path / "run").exists()
    for changes in ({"share": 0.0}, {"points": -1}, {"hu_net": HUNetSettings(3)}):
        with pytest.raises(ConfigurationError, match=r"share|hu_net.inputs"):
            make_stage(training(tmp_path, **changes))
