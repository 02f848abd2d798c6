"""Bundles exported once more, and what bfloat16 is off."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.inference.gpu.parity import BF16
from scene_completion_training import export
from tests.inference.small_bundle import make_small_bundle


def test_a_field_student_stays_what_it_is(tmp_path: Path) -> None:
    weights: dict[str, NDArray[Any]] = {"any": np.ones(3, np.float16)}
    made = make_small_bundle(tmp_path / "made", classes=3)
    made = made.save(tmp_path / "made", made.read_encoder(), weights)
    again = export.export_again(made, tmp_path / "again")
    assert again.sha256 == made.sha256 and again.class_names == made.class_names


@pytest.mark.parametrize("passes", [True, False])
def test_bfloat16_is_written_down_where_it_passes_alone(
    passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_small_bundle(tmp_path, classes=3)
    before = (tmp_path / MANIFEST).read_bytes()
    monkeypatch.setattr(export, "cpu_has_bf16", lambda: True)
    limits = BF16.limits if passes else {**BF16.limits, "occupied_iou": 1.1}
    monkeypatch.setattr(export, "BF16", dataclasses.replace(BF16, limits=limits))
    found, in_words = export.measured_in_bf16(made)
    assert "IoU of the occupied voxels" in in_words
    assert found.passed_bf16 == StudentBundle.load(tmp_path).passed_bf16 == passes
    if not passes:
        assert (tmp_path / MANIFEST).read_bytes() == before
        return
    numbers = json.loads((tmp_path / MANIFEST).read_text())["bf16"]["parity"]
    assert numbers.keys() == BF16.limits.keys() and 0.9 < numbers["occupied_iou"] <= 1.0


def test_a_cpu_without_bfloat16_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_small_bundle(tmp_path)
    monkeypatch.setattr(export, "cpu_has_bf16", lambda: False)
    found, in_words = export.measured_in_bf16(made)
    assert found is made and in_words.startswith("not measured")
