from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.commands import evaluate as command


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(option) for option in options]))


def test_command(street: PosedSequence, student: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    street.save(tmp_path / "town" / "sequence")
    other = replace(street, name="other").save(tmp_path / "other")
    options = ["--bundle", student.folder, "--controls", "--scans", 10, "--threads", 1, "--calibrate-on", other]
    assert run("occupancy", "--data", tmp_path / "town", *options, "--output", tmp_path / "out") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "results.md", "iou_by_region.png", "profile_one_wall_000000.png"} <= written
    assert any(name.startswith("reliability_") for name in written)
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content["settings"]["scans"] == "10"
    assert {entry["rule"] for entry in content["lidar"]} == {"σ > 0.5", "calibrated"}
    assert "surface + 4 m (true depth)" in {entry["method"] for entry in content["exact"]["voxels"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to score on"),
        (("--data", "town"), "nothing to score"),
        (("--data", "town", "--controls", "--scans", 2), "at least 3"),
        (("--data", "town", "--controls", "--prior", "town"), "is scored as well"),
        (("--data", "town", "--controls"), "no recording"),
    ],
)
def test_command_refuses_what_makes_no_sense(options: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=message):
        run("occupancy", *options, "--output", tmp_path / "out")
