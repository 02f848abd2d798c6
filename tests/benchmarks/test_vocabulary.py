from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import vocabulary
from scene_completion_ros.geometry.grids import VoxelGrid
from tests.inference.small_bundle import CANONICAL, make_small_bundle


def test_all_tables_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_small_bundle(tmp_path, grid=VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10)), classes=5, threshold=0.1)
    picture = np.zeros((CANONICAL.height, CANONICAL.width, 3), np.uint8)
    monkeypatch.setattr(vocabulary, "demo_drive", lambda: (CANONICAL, [picture]))
    monkeypatch.setattr(sys, "argv", ["vocabulary", "--bundle", str(tmp_path), "--repeats", "1", "--voxels", "300"])
    vocabulary.main()
    rows = [
        line.strip("|").split(" | ")
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    assert [row[0].strip() for row in rows] == [
        "300 voxels, E = 64",
        "labels of the student, K = 5",
        "20 phrases, folded",
        "20 phrases, explicit (D = 512, float32, units not counted)",
        rows[4][0].strip(),
        "classes of the student",
        "vocabulary of 20 phrases",
        "and a query of 1 phrase",
        "switch to",
        "20 phrases",
        "4096 phrases",
    ]
    assert float(rows[2][-1]) == float(rows[5][-1]) == 1.0
    assert all(float(cell) >= 0.0 for row in rows[1:4] for cell in row[1:])
