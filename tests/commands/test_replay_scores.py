"""``scene-completion replay`` with ground truth, and options that do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.inference.bundle import StudentBundle
from tests.commands.conftest import CAMERA_HEIGHT
from tests.commands.recordings import POLE, record
from tests.commands.test_replay import replay


def test_depth_is_scored_against_the_recordings_lidar(tmp_path: Path, flat_road: StudentBundle) -> None:
    """The student sees a flat road and no pole: the depth behind a point of the pole is that of the road there."""
    bag, output = record(tmp_path / "drive"), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline") == 0
    distance, below_camera = POLE[:, 0], -POLE[:, 2] - 1.0  # the LiDAR stands a metre above the camera
    with np.errstate(divide="ignore"):
        road = np.where(below_camera > 0.0, distance * CAMERA_HEIGHT / below_camera, np.inf)
    seen = np.where(road < 51.2, road, 80.0)  # the default grid ends there, and what is too far counts as 80 m
    scores = json.loads((output / "scores.json").read_text(encoding="utf-8"))["depth"]
    (errors,) = [row for row in scores if row["pixels"] == "all pixels"]
    assert (errors["recordings"], errors["frames"], errors["covered"]) == ("lidar", 3, 1.0)
    assert errors["a1"] == pytest.approx(float(np.mean(seen / distance < 1.25)))
    assert errors["abs_rel"] == pytest.approx(float(np.mean((seen - distance) / distance)), rel=0.02)
    statistics = json.loads((output / "statistics.json").read_text(encoding="utf-8"))
    assert statistics["scores"]["depth against lidar"]["a1"] == errors["a1"]
    page = (output / "report" / "index.html").read_text(encoding="utf-8")
    assert "depth against lidar" in page
    assert "| node | 3 | all pixels | 100.0 |" in (output / "scores.md").read_text(encoding="utf-8")


def test_parameters_of_a_robot_that_are_wrong_are_named(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, robot = record(tmp_path / "drive", frames=1), tmp_path / "robot.yaml"
    robot.write_text("/**: {ros__parameters: {threads: 2.5}}\n", encoding="utf-8")
    assert replay(bag, tmp_path / "out", flat_road, "--params-file", str(robot)) == 2
    assert "robot.yaml: parameter threads: 2.5 is of type double" in capsys.readouterr().err


def test_a_folder_that_is_no_ground_truth_is_refused_before_anything_is_written(
    tmp_path: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, output = record(tmp_path / "drive", frames=1), tmp_path / "out"
    assert replay(bag, output, flat_road, "--offline", "--ground-truth", str(tmp_path)) == 2
    assert "is no recording" in capsys.readouterr().err
    assert not output.exists()
