"""What is written from the schema, compared with what is in the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.documents import (
    COMMAND,
    DOCUMENTATION,
    PARAMETER_FILE,
    documentation,
    parameter_file,
    write,
)
from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters, ParameterSpec

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLES = (
    ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0.0, 1.0), live=True),
    ParameterSpec("mode", "off", "A mode.", choices=("off", "on")),
    ParameterSpec("file", "", "A file " + "with a long story " * 20 + "to tell.", path="file"),
)


@pytest.mark.parametrize(("path", "made"), [(DOCUMENTATION, documentation), (PARAMETER_FILE, parameter_file)])
def test_the_repository_holds_what_the_schema_makes(path: Path, made: object) -> None:
    assert callable(made)
    assert (REPOSITORY / path).read_text(encoding="utf-8") == made(), f"run {COMMAND}"


def test_parameter_file_holds_every_parameter_at_its_default() -> None:
    document = yaml.safe_load(parameter_file())
    assert document == {"/**": {"ros__parameters": asdict(NodeParameters())}}


def test_every_parameter_has_a_row_with_all_that_is_known_of_it() -> None:
    rows = {line.split("`")[1]: line for line in documentation().splitlines() if line.startswith("| `")}
    assert list(rows) == [spec.name for spec in SCHEMA]
    for spec in SCHEMA:
        assert rows[spec.name].count(" | ") == 5
        assert spec.meaning in rows[spec.name]
        assert f"| {spec.type_name} |" in rows[spec.name]
        assert ("| live |" in rows[spec.name]) == spec.live != ("| read-only |" in rows[spec.name])
        assert all(f"`{choice}`" in rows[spec.name] for choice in spec.choices)


def test_kinds_that_the_node_does_not_have_yet() -> None:
    assert "| `fraction` | double | `0.5` | 0.0 to 1.0 | live | A fraction. |" in documentation(SAMPLES)
    assert "| `mode` | string | `off` | `off`, `on` | read-only | A mode. |" in documentation(SAMPLES)
    text = parameter_file(SAMPLES)
    assert yaml.safe_load(text)["/**"]["ros__parameters"] == {"fraction": 0.5, "mode": "off", "file": ""}
    assert max(map(len, text.splitlines())) <= 120


def test_write_puts_both_into_a_checkout_and_nothing_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match="docs"):
        write(tmp_path)
    for path in (DOCUMENTATION, PARAMETER_FILE):
        (tmp_path / path).parent.mkdir()
    write(tmp_path)
    assert (tmp_path / DOCUMENTATION).read_text(encoding="utf-8") == documentation()
    assert (tmp_path / PARAMETER_FILE).read_text(encoding="utf-8") == parameter_file()


def test_the_command_needs_no_ros(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "config").mkdir()
    without_ros = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs')));"
        "runpy.run_module('scene_completion_ros.ros.parameters.documents', run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", without_ros]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / DOCUMENTATION).read_text(encoding="utf-8") == documentation()
