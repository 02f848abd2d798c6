"""Which of the shipped students is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import AUTO, DEFAULT_BUNDLE, open_student, shipped_students
from tests.inference.small_bundle import make_small_bundle


def test_students_are_named_by_their_folders(tmp_path: Path) -> None:
    named = make_small_bundle(tmp_path / "named", name="named")
    assert {"kitti_student", "room", "street"} <= {*shipped_students()}
    assert open_student("street").folder == DEFAULT_BUNDLE.with_name("street")
    for default in (None, AUTO, DEFAULT_BUNDLE.name):
        assert open_student(default).folder == DEFAULT_BUNDLE
    assert open_student(named.folder).name == "named"
    with pytest.raises(BundleError):
        open_student("no_student")
