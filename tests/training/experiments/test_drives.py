"""SceneDINO on rendered towns, KDBTS on a real drive."""

from pathlib import Path

import pytest

from tests.training.experiments.shortened import scored, small_dinov2

pytestmark = pytest.mark.timeout(3600)


def test_scenedino(tmp_path: Path) -> None:
    small = {"TRAIN": 101, "TEST": 2001, "FIELD_STEPS": 2, "SEMANTICS_STEPS": 3, "LAYER": 1}
    model = small_dinov2(tmp_path / "dinov2")
    rows = scored("scenedino", tmp_path / "out", "full no_distillation no_downsampler", MODEL=model, **small)
    assert rows.keys() == {"full_0", "no_distillation_0", "no_downsampler_0"}


def test_knowledge_distillation_on_real_drives(tmp_path: Path, shared_data: Path) -> None:
    drive = "[{folder: kitti_windows/sequences/00}]"
    small = {"STEPS": 2, "PRIOR_STEPS": 2, "LOSSES": "full", "WINDOWS": "06", "DRIVES": drive, "DATA": shared_data}
    rows = scored("kdbts", tmp_path / "out", "", **small)
    assert rows.keys() == {"teacher_full_0", "student_full_0", "baseline_full_0"}
    assert len(rows["teacher_full_0"]) == 2  # of one view, and of four
