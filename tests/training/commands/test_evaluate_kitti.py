"""What the command refuses, and the section that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.commands import evaluate, evaluate_kitti


def test_command_refuses_to_fit_on_test_and_training_windows(student: StudentBundle, tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    for window in ("06", "00"):
        options = ["kitti", "--data", str(tmp_path), "--bundle", str(student.folder), "--fit-calibration", window]
        with pytest.raises(SceneCompletionError, match="training or testing"):
            evaluate.run(parser.parse_args(options))


def test_section_of_a_document_is_added_then_replaced(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("# Results\n", encoding="utf-8")
    evaluate_kitti.write_section(document, "first\n")
    document.write_text(document.read_text(encoding="utf-8") + "\nafter\n", encoding="utf-8")
    evaluate_kitti.write_section(document, "second\n")
    text = document.read_text(encoding="utf-8")
    assert text == f"# Results\n\n{evaluate_kitti.BEGIN}\nsecond\n{evaluate_kitti.END}\n\nafter\n"
