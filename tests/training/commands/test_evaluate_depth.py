"""The command on a KITTI raw drive, and on a recorded window."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, load_default_bundle
from scene_completion_training.commands import evaluate as command
from scene_completion_training.evaluation.deployed_model import StudentPredictor
from scene_completion_training.evaluation.depth_evaluation import MEAN_DEPTH, NO_FRAME
from scene_completion_training.evaluation.kitti import (
    VOXEL_SHAPE,
    Baselines,
    VoxelPrediction,
    VoxelTruth,
    Window,
    open_window,
    score_window,
)
from tests.sequences import test_kitti_raw

DRIVE = "2011_09_26_drive_0001_sync"
LISTED = f"2011_09_26/{DRIVE}"
OTHER = "2011_09_26_drive_0002_sync"
raw_drive = test_kitti_raw.drive


def write_list(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


class WindowWithoutVoxels(Window):
    """Voxels take long and are not under test here."""

    def voxel_truth(self) -> VoxelTruth:
        return VoxelTruth(*[np.ones(VOXEL_SHAPE, bool)] * 4)


class StudentWithoutVoxels(StudentPredictor):
    def voxels(self, image: np.ndarray) -> VoxelPrediction:
        return VoxelPrediction(np.ones(VOXEL_SHAPE, np.float32), np.ones(VOXEL_SHAPE, bool))


def run(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["depth", *map(str, options)]))


def test_command_on_a_raw_drive(raw_drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean depth alone, of a second drive with the same scans: no error at all."""
    second = shutil.copytree(raw_drive, raw_drive.parent / OTHER)
    frames = write_list(tmp_path / "list.txt", f"{LISTED} 0000000001 l", f"{LISTED} 77 l")
    output = tmp_path / "new" / "out"
    assert run("--data", raw_drive, "--frames", frames, "--mean-depth", second, "--output", output) == 0
    text = (output / "results.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert f"| {MEAN_DEPTH} | 1 | 1 | 0.000 |" in text
    content = json.loads((output / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (content["frames"], content["pixels"], content["recordings"]) == (1, 1, [DRIVE])
    assert content["left_out"] == [{"reason": NO_FRAME, "drive": DRIVE, "frame": 77}]
    assert content["settings"]["mean_depth"] == [str(second)]
    assert all(math.isfinite(value) for value in content["depth"][MEAN_DEPTH].values())


def test_command_refuses_what_contradicts_itself(raw_drive: Path) -> None:
    for options, message in (
        ((raw_drive,), "nothing to score"),
        ((raw_drive, raw_drive, "--mean-depth", raw_drive.parent), "named twice"),
        ((raw_drive, "--mean-depth", raw_drive), "is scored as well"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run("--data", *options)
    with pytest.raises(SequenceError, match="no recording"):
        run("--data", raw_drive.parent, "--bundle", DEFAULT_BUNDLE)


def test_shipped_student_scores_as_under_the_protocol_of_windows(shared_data: Path, tmp_path: Path) -> None:
    frames = write_list(tmp_path / "list.txt", "04 0 l", "04 1 l")
    folder = shared_data / "kitti_windows" / "sequences" / "04"
    options = ("--data", folder, "--frames", frames, "--bundle", DEFAULT_BUNDLE, "--threads", "1")
    assert run(*options, "--output", tmp_path) == 0
    content = json.loads((tmp_path / "results.json").read_text())
    window = open_window(shared_data, "04")
    short = WindowWithoutVoxels("04", replace(window.sequence, frames=window.sequence.frames[:2]))
    baselines = Baselines(np.full((4, 4), 20.0, np.float32), np.full(VOXEL_SHAPE, 0.1, np.float32), 0.5)
    student = StudentWithoutVoxels(load_default_bundle(), short, threads=1)
    scores = score_window(short, {"student": student}, baselines)
    assert content["frames"] == 2 and content["pixels"] > 20_000
    assert content["depth"][DEFAULT_BUNDLE.name] == pytest.approx(asdict(scores.depth["student"]), abs=1e-4)
