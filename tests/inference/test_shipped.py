"""Which of the shipped students is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE
from scene_completion_ros.inference.shipped import AUTO, open_student, shipped_students
from tests.inference.small_bundle import make_small_bundle


def test_students_are_named_by_their_folders(tmp_path: Path) -> None:
    models, named = tmp_path / "models", make_small_bundle(tmp_path / "models" / "named", name="named")
    (models / "no_student").mkdir()
    assert shipped_students(models) == ("named",)
    assert open_student("named", models=models).folder == named.folder
    assert DEFAULT_BUNDLE.name in shipped_students()
    for default in (None, AUTO, DEFAULT_BUNDLE.name):
        assert open_student(default).folder == DEFAULT_BUNDLE
    assert open_student(named.folder).name == "named"
    with pytest.raises(BundleError):
        open_student("no_student", models=models)
