"""The command that probes features of voxels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_training.evaluation.semantic_evaluation import truths
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.evaluation.one_wall import make_street
from tests.training.evaluation.test_open_vocabulary import with_labels
from tests.training.saved_checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twice the street with one wall, whose left half is a car, and whose right half a building."""
    street = make_street()
    ((_, _, truth),) = list(truths([street]))
    x = truth.grid_from_camera.inverse().apply(truth.grid.centres().astype(np.float64))[..., 0]
    street = with_labels(street, lambda label: np.where((label > 0) & (x >= 1.0), 13, label))
    folder = tmp_path_factory.mktemp("towns")
    for name in ("train", "test"):
        street.save(folder / name)
    return folder / "train", folder / "test"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    settings = HUNetSettings(len(FEATURES), (8, 12), (8, 12))
    remembered = {"columns": list(FEATURES), "network": settings.plain(), "steps": 7}
    data = {"voxel_size": 0.8, "student": ""}
    file = tmp_path_factory.mktemp("run") / "last.ckpt"
    return save_checkpoint(file, VoxelHUNet(settings), "masked_scene", data=data, **remembered)


def test_methods_are_probed_and_written(towns: tuple[Path, Path], checkpoint: Path, tmp_path: Path) -> None:
    train, test = map(str, towns)
    command = [
        "probe",
        "--train",
        train,
        "--test",
        test,
        f"--cache={tmp_path / 'cache'}",
        f"--output={tmp_path / 'out'}",
    ]
    command += ["--inputs", f"--untrained={checkpoint}", "--method", "mine", str(checkpoint), str(checkpoint)]
    assert main([*command, "--seeds", "0", "1", "2", "--steps=20", "--whole-only"]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    runs = {entry["method"]: entry["runs"] for entry in content["scores"]}
    assert runs == {"inputs": 3, "untrained": 3, "mine": 2}
    assert all(entry["recordings"] == "towns" and entry["variant"]["kind"] == "all" for entry in content["scores"])
    linear = next(e for e in content["scores"] if e["method"] == "mine" and e["reading"] == "linear")["scores"]
    assert {name for name, share in linear["class_accuracy"].items() if share["mean"] is not None} == {
        "car",
        "building",
    }
    assert "towns: labels of occupied voxels" in (tmp_path / "out" / "results.md").read_text()
    assert not list((tmp_path / "out").glob("probe_*.png"))  # nothing was varied: there is no curve


def test_what_cannot_be_probed_is_said_first(
    towns: tuple[Path, Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = map(str, towns)
    places = [f"--cache={tmp_path}", f"--output={tmp_path / 'out'}"]
    for options, said in (
        (["--train", train, "--test", test], "nothing to probe"),
        (["--train", train, "--test", test, train, "--inputs"], "is scored as well"),
        (["--train", train, "--test", test, "--units"], "those of a student"),
        (["--train", train, "--test", test, "--inputs", "--scenes=predicted"], "those of a student"),
        (["--train", train, "--test", test, "--inputs", "--scenes=lidar"], "Take scenes of another kind"),
        (["--train", train, "--test", test, "--inputs", "--steps=0"], "Counts are at least 1"),
        (["--train", train, "--test", test, "--inputs", "--train-voxels=0"], "counts below 1"),
        (["--train", train, "--test", test, "--method", "mine"], "mine has no checkpoint"),
        (["--train", train, "--test", test, "--method", "mine", "nowhere.ckpt"], "no file nowhere.ckpt"),
        (["--train", train, "--test", str(tmp_path / "none"), "--inputs"], "is no recording"),
    ):
        assert main(["probe", *options, *places]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
