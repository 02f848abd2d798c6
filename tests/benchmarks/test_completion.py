"""What `python -m benchmarks.completion` prints, and what benchmarks say where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import completion, measuring
from scene_completion_ros.geometry.grids import VoxelGrid
from tests.checkout import run_python
from tests.inference.small_bundle import CANONICAL, make_small_bundle

GRID = VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10))
PICTURE = np.random.default_rng(0).integers(0, 256, (CANONICAL.height, CANONICAL.width, 3), dtype=np.uint8)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_whose_package_is_missing_say_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        make_small_bundle(tmp_path / name, grid=GRID, threshold=0.1)
    for module in (completion, measuring):
        monkeypatch.setattr(module, "demo_drive", lambda: (CANONICAL, [PICTURE]))
    beside = ["--beside", str(tmp_path / "b")]
    monkeypatch.setattr(sys, "argv", ["completion", "--bundle", str(tmp_path / "a"), "--repeats", "1", *beside])
    for package in ("onnxruntime", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    completion.main()
    lines = capsys.readouterr().out.splitlines()
    (compared,) = (cells(line) for line in lines if line.startswith("| b, openvino"))
    assert compared[12] == cells(lines[4])[12] and float(compared[12]) > 0  # voxels of the same student
    assert any(line.startswith("What words cost was not measured") for line in lines)
    assert [cells(line)[:2] for line in lines if "needs" in line] == [
        ["onnxruntime", "not measured: needs onnxruntime"],
        ["naive PyTorch, all voxels", "not measured: needs torch"],
    ]


@pytest.mark.parametrize(("benchmark", "package"), [("training_step", "torch"), ("soak", "rclpy")])
def test_a_benchmark_whose_package_is_missing_says_which(benchmark: str, package: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n", encoding="utf-8")
    done = run_python("-m", f"benchmarks.{benchmark}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"python -m benchmarks.{benchmark} needs {package}, which is not installed: run it with")


def test_what_a_benchmark_cannot_use_is_said_in_a_line(tmp_path: Path) -> None:
    done = run_python("-m", "benchmarks.completion", "--bundle", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path}: no student.json in it. Name the folder of a student bundle."
