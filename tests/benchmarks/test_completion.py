"""What `python -m benchmarks.completion` prints, and what benchmarks say where a package is missing."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import completion, measuring
from benchmarks.measuring import Runs, ratio_table
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.completer import Completer
from tests.checkout import run_python
from tests.inference.small_bundle import CANONICAL, make_small_bundle
from tests.inference.small_vocabulary import small_bank, small_space

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


def test_words_are_compared_with_the_classes_of_the_student(tmp_path: Path) -> None:
    small = make_small_bundle(tmp_path, grid=GRID, classes=3, threshold=0.1)
    bundle = small.with_vocabulary((small_space(),), small_bank())
    make = functools.partial(Completer, camera=CANONICAL, threads=1)
    rows = [cells(line) for line in completion.words_table(bundle, make, [PICTURE], 1).splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "classes of the student",
        "vocabulary of 3 phrases",
        "and a query of 3 phrases",
        "the query without labels",
    ]
    assert rows[0][4] == "1.00" and all(float(row[4]) > 0 for row in rows)


def test_ratios_are_those_of_medians() -> None:
    rows = {
        "slow": Runs(np.array([10.0, 30.0, 20.0]), np.array([40.0, 40.0, 40.0])),
        "missing": "needs a package",
        "fast": Runs(np.array([5.0, 4.0, 100.0, 4.0]), np.array([10.0, 10.0, 10.0, 10.0])),
    }
    table = ratio_table("work", rows, "fast", {"off by": {"slow": "nothing"}}).splitlines()
    assert table[0] == "| work | p50 ms | p95 ms | CPU ms | times | times (CPU) | off by |"
    assert table[2] == "| slow | 20.0 | 29.0 | 40.0 | 4.44 | 4.00 | nothing |"  # 20 / 4.5
    assert table[3] == "| missing | not measured: needs a package |  |  |  |  |  |"
    assert cells(table[4])[4:] == ["1.00", "1.00", ""]


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
