"""Masked scene modelling of points, from the training by its published configuration to every score."""

import json
from pathlib import Path

import pytest

from scene_completion_ros.cli import main
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.commands import evaluate_points
from scene_completion_training.evaluation import probes
from scene_completion_training.foundation import encoded_words
from scene_completion_training.points.features import PointNetwork
from tests.training.evaluation.test_instances import words
from tests.training.points.rooms import save_rooms

PUBLISHED = CONFIGS / "full_size" / "rooms_masked_scene.yaml"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of rooms to learn from and to score on."""
    root = tmp_path_factory.mktemp("rooms")
    save_rooms(root / "train", range(4), step=0.08)
    (root / "train" / "scenes_train.txt").write_text("room_0\nroom_1\nroom_2\n")
    save_rooms(root / "test", [7], step=0.08)
    return root


@pytest.fixture(scope="module")
def trained(rooms: Path) -> Path:
    """A checkpoint of the published training, but for two steps, narrow levels and fewer points."""
    command = ["train", "--config", str(PUBLISHED), f"data.root={rooms}", f"data.cache={rooms / 'cache'}"]
    command += ["data.sources=[{folder: train, split: train}]", f"output={rooms / 'run'}"]
    command += ["network.encoder=[8,8,8,16,16]", "network.decoder=[8,8,8,16,16]", "network.blocks=1"]
    command += ["views.points=4000", "data.voxel_size=0.05", "data.batch_size=2", "data.workers=0"]
    command += ["precision=32-true", "warmup=1", "steps=2", "log_every=1"]  # a CPU is slow in half precision
    assert main([*command, "checkpoint_every=1"]) == 0
    return rooms / "run" / "checkpoints" / "last.ckpt"


def test_every_score_is_written(trained: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Checkpoint.read(trained).record["scenes"] == {next((rooms / "cache").iterdir()).name: 3}
    assert PointNetwork.open(trained).voxel_size == 0.05

    class Encoder:
        def __init__(self, model: str) -> None:
            self.encode = words

    monkeypatch.setattr(encoded_words, "TextEncoder", Encoder)
    monkeypatch.setattr(evaluate_points, "MOST_PROBED", 300)
    monkeypatch.setattr(probes, "PROBE_STEPS", 3)
    monkeypatch.setattr(probes, "SHARES", (34,))
    monkeypatch.setattr(probes, "FEW_POINTS", (20,))
    phrases = []
    for name, seeds in (("train", range(3)), ("test", [7])):
        sentences = [{"scene_id": f"room_{seed}", "object_id": "0", "description": "the left table"} for seed in seeds]
        phrases.append(tmp_path / f"{name}.json")
        phrases[-1].write_text(json.dumps(sentences))
    command = ["evaluate", "points", "--probe-on", str(rooms / "train"), "--probe-split", "train"]
    command += ["--data", str(rooms / "test"), "--labels", "scannet20"]
    command += ["--checkpoint", str(trained), "--ablations", "--phrases", *map(str, phrases), "--text-encoder", "any"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
    methods = {"run", "run, random weights", "colour alone"}
    for metric in ("instances", "grounding"):
        assert {row["method"] for row in scores[metric]} == methods
    assert {row["method"].split(", linear")[0] for row in scores["points"] if "linear" in row["method"]} == methods
    rows = {row["method"]: row for row in scores["points"]}
    assert len(rows) == 3 * (2 * (1 + 2 * 5 + 2) + 1 + 2)  # colour has one level
    assert set(rows["run, 20 nearest, all but level 5"]["class_iou"]) > {"wall", "table"}
    assert all(0.0 <= row["mean_iou"] <= 1.0 for row in rows.values())
    assert {row["things"]: row["sentences"] for row in scores["grounding"]}["overall"] == 1


def test_what_cannot_be_scored_is_refused(
    rooms: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "points", "--checkpoint", str(trained), "--data", str(rooms / "test")]
    command += ["--output", str(tmp_path)]
    probed = ["--probe-on", str(rooms / "train")]
    for more, sentence in (
        ([], "no scenes to fit probes"),
        ([*probed, "--phrases", str(trained), str(trained)], "sentences without their encoder"),
        ([*probed, "--foundation", "any"], "no place for lifted features. Give --cache"),
        ([*probed, "--phrases", str(trained)], "1 files. Name that of --probe-on and that of --data, or 'made'"),
        ([*probed, "--ambiguity"], "no checkpoint has teachers. Name one of stage point_agglomeration"),
        (probed, "has no labels. Name scenes with labels, and their --labels"),
    ):
        assert main([*command, *more]) == 2
        assert sentence in capsys.readouterr().err
