"""The command that probes features of voxels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_training.commands import evaluate_features
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.evaluation.one_wall import make_street, true_voxels
from tests.training.evaluation.test_open_vocabulary import with_labels
from tests.training.saved_checkpoint import save_checkpoint


def test_methods_are_probed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On twice the street with one wall, whose left half is a car, and whose right half a building."""
    street = make_street()
    truth = true_voxels(street)
    x = truth.grid_from_camera.inverse().apply(truth.grid.centres().astype(np.float64))[..., 0]
    street = with_labels(street, lambda label: np.where((label > 0) & (x >= 1.0), 13, label))
    train, test = (str(street.save(tmp_path / "towns" / name)) for name in ("train", "test"))
    torch.manual_seed(0)
    settings = HUNetSettings(len(FEATURES), (8, 12), (8, 12))
    remembered = {"columns": list(FEATURES), "network": settings.plain(), "steps": 7}
    data, file = {"voxel_size": 0.8, "student": ""}, tmp_path / "last.ckpt"
    checkpoint = save_checkpoint(file, VoxelHUNet(settings), "masked_scene", data=data, **remembered)
    monkeypatch.setattr(evaluate_features, "PROBE_STEPS", 20)
    command = ["evaluate", "features", "--train", train, "--data", test, f"--cache={tmp_path / 'cache'}"]
    command += [f"--output={tmp_path / 'out'}"]
    command += ["--inputs", f"--untrained={checkpoint}", "--method", "mine", str(checkpoint), str(checkpoint)]
    assert main([*command, "--seeds", "0", "1", "2"]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["zero_shot"]
    assert [row["method"] for row in rows] == ["inputs"] * 3 + ["untrained"] * 3 + ["mine"] * 2
    assert {(row["recordings"], row["method"], row["seed"]) for row in rows} >= {
        ("towns", "mine", 0),
        ("towns", "mine", 1),
    }
    recalls = rows[-1]["class_accuracy"]
    assert {name for name, share in recalls.items() if share is not None} == {"car", "building"}
    assert "towns. Labels of the voxels" in (tmp_path / "out" / "results.md").read_text()
