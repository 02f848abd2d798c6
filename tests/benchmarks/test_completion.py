"""What `python -m benchmarks.completion` says of rows that cannot be measured, and other benchmarks of themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import completion
from scene_completion_ros.geometry.grids import VoxelGrid
from tests.checkout import run_python
from tests.inference.small_bundle import CANONICAL, make_small_bundle


def test_rows_whose_package_is_missing_say_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_small_bundle(tmp_path, grid=VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10)), classes=5, threshold=0.1)
    picture = np.zeros((CANONICAL.height, CANONICAL.width, 3), np.uint8)
    monkeypatch.setattr(completion, "demo_drive", lambda: (CANONICAL, [picture]))
    monkeypatch.setattr(completion, "REFERENCE_VOXELS", 100)
    monkeypatch.setattr(sys, "argv", ["completion", "--bundle", str(tmp_path), "--repeats", "1", "--beside"])
    for package in ("onnx", "onnxruntime", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    completion.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "needs" in line]
    assert rows[0] == "What labels cost was not measured: the student without them needs onnx."
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        ["| onnxruntime", "not measured: needs onnxruntime"],
        ["| naive PyTorch, all voxels", "not measured: needs torch"],
    ]


@pytest.mark.parametrize(("benchmark", "package"), [("training_step", "torch"), ("soak", "rclpy")])
def test_a_benchmark_whose_package_is_missing_says_which(benchmark: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n", encoding="utf-8")
    asked = ("--output", str(tmp_path)) if benchmark == "soak" else ()
    done = run_python("-m", f"benchmarks.{benchmark}", *asked, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"python -m benchmarks.{benchmark} needs {package}, which is not installed: run it with")


def test_what_a_benchmark_cannot_use_is_said_in_a_line(tmp_path: Path) -> None:
    done = run_python("-m", "benchmarks.completion", "--bundle", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path}: no student.json in it. Name the folder of a student bundle."


def test_students_are_compared_frame_by_frame_in_processes_of_their_own(tmp_path: Path) -> None:
    grid = VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10))
    for name in ("a", "b"):
        make_small_bundle(tmp_path / name, grid=grid, threshold=0.1)
    lines = completion.students_table([f"{tmp_path / 'a'}", f"{tmp_path / 'b'}:onnxruntime"], 1, 2).splitlines()
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert (first[0], second[0]) == ("a, openvino", "b, onnxruntime")
    assert first[7] == "1.00" and float(second[7]) > 0
    assert first[8] == second[8] and int(first[8]) > 0  # the same student, whatever runs it
    assert float(first[9]) > 50
