"""The schema of the parameters by itself."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters, ParameterSpec, nearest_name
from tests.unprivileged import unprivileged

FRACTION = ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0.0, 1.0))
COUNT = ParameterSpec("count", 3, "A count.", bounds=(0, 8))
MODE = ParameterSpec("mode", "fast", "A mode.", choices=("fast", "exact"))
SWITCH = ParameterSpec("switch", False, "A switch.")
FOLDER = ParameterSpec("folder", "", "A folder.", path="folder")
FILE = ParameterSpec("file", "", "A file.", path="file")
BANK = ParameterSpec("bank", "", "A text bank.", path="text bank")


def test_every_parameter_is_described_once_and_its_default_is_allowed() -> None:
    assert [spec.default for spec in SCHEMA] == list(astuple(NodeParameters()))
    for spec in SCHEMA:
        assert spec.meaning.endswith("."), spec.name
        assert "|" not in spec.meaning, spec.name  # it stands in a table
        assert spec.problem(spec.default) is None, spec.name


def test_what_cannot_change_under_a_running_model_and_its_readers_is_read_only() -> None:
    assert {spec.name for spec in SCHEMA if not spec.live} == {
        "bundle", "shadow.bundle", "engine", "grid.file", "image.transport", "image.qos",
        "autostart", "cameras", "grid.frame", "transform.source", "transform.topics", "odometry.topics",
        "extrinsics_file", "odometry.frame",
        "gpu_precision",
        "occupancy_threshold", "output_qos",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (FRACTION, 0.0),
        (FRACTION, 1.0),
        (COUNT, 0),
        (COUNT, 8),
        (MODE, "exact"),
        (SWITCH, True),
        (FOLDER, ""),
        (BANK, ""),
        (BANK, "shipped"),
        (BANK, __file__),
    ],
)
def test_allowed_values(spec: ParameterSpec, value: Any) -> None:
    assert spec.problem(value) is None


@pytest.mark.parametrize(
    ("spec", "value", "words"),
    [
        (FRACTION, 1.01, ["1.01", "0.0 to 1.0"]),
        (FRACTION, math.nan, ["nan", "finite", "0.0 to 1.0"]),
        (FRACTION, 1, ["integer", "double", "decimal point"]),
        (COUNT, -1, ["-1", "0 to 8"]),
        (COUNT, True, ["True", "boolean", "integer"]),
        (COUNT, "two", ["'two'", "string", "integer", "0 to 8"]),
        (COUNT, None, ["None", "integer"]),
        (MODE, "slow", ["'slow'", "one of fast, exact"]),
        (MODE, "", ["one of fast, exact"]),
        (MODE, "x" * 10_000, ["one of fast, exact"]),
        (BANK, "x" * 10_000, ["has 10000 characters", "shipped, an existing file, or empty"]),
        (SWITCH, 1, ["integer", "boolean", "true or false"]),
        (FOLDER, "/nowhere/at/all", ["/nowhere/at/all", "an existing folder, or empty"]),
        (FILE, "/", ["no file /", "an existing file, or empty"]),
        (FOLDER, "nul\0byte", ["no folder"]),
        (BANK, "/", ["no file /", "shipped, an existing file, or empty"]),
    ],
)
def test_refused_values_say_what_is_wrong_and_what_is_allowed(
    spec: ParameterSpec, value: Any, words: list[str]
) -> None:
    problem = spec.problem(value)
    assert problem is not None
    assert all(word in problem for word in words), problem
    assert len(problem) < 250


def test_a_relative_path_is_named_with_the_folder_it_was_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    assert FOLDER.problem("there") is None
    assert str(tmp_path / "missing") in str(FOLDER.problem("missing"))


def test_no_path_but_that_of_a_text_bank_can_be_changed_by_another_node() -> None:
    """A parameter that is set over DDS is a message, and no path comes from a message but that of a text bank."""
    paths = [spec for spec in SCHEMA if spec.path]
    assert {spec.name for spec in paths} >= {"bundle", "grid.file"}
    assert {spec.name for spec in paths if spec.live} == {"vocabulary"}


def test_student_of_the_hub_is_a_bundle_and_is_not_asked_for_before_it_is_needed() -> None:
    for spec in [spec for spec in SCHEMA if spec.path == "student"]:
        assert spec.problem("hf:robots/student@main") is None
        assert "is no name of a bundle on the hub" in str(spec.problem("hf:robots"))
        assert spec.name in ("bundle", "shadow.bundle")


def test_folders_and_files_have_to_be_open_to_this_user() -> None:
    with TemporaryDirectory() as name:
        folder, file = Path(name), Path(name) / "file"
        file.touch(mode=0o200)
        folder.chmod(0o555)
        with unprivileged():
            assert FOLDER.problem(name) is None
            assert f"the file {file} may not be read by this user" in str(FILE.problem(str(file)))
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("thraeds", "threads"),
        ("Threads", "threads"),
        ("gridfile", "grid.file"),
        ("image.rectifed", "image.rectified"),
        ("wheel_radius", None),
    ],
)
def test_nearest_name(name: str, meant: str | None) -> None:
    assert nearest_name(name, [spec.name for spec in SCHEMA]) == meant
