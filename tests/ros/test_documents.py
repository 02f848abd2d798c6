"""What is written from the tables, compared with what is in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.documents import (
    BEGIN,
    COMMAND,
    DOCUMENTATION,
    END,
    NODE_PAGE,
    PARAMETER_FILE,
    POLICY,
    documentation,
    parameter_file,
    policy,
    tables,
    with_tables,
    write,
)
from scene_completion_ros.ros.parameters.schema import SCHEMA, ParameterSpec
from scene_completion_ros.ros.topics import SERVICES, STAGES, TOPICS
from tests.checkout import run_python

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = (
    ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0.0, 1.0), live=True),
    ParameterSpec("mode", "off", "A mode.", choices=("off", "on")),
    ParameterSpec("file", "", "A file " + "with a long story " * 20 + "to tell.", path="file"),
)


def first_cells(text: str) -> list[str]:
    """What stands in the first cells of the tables, without the quotes around it."""
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]


def empty_checkout(root: Path) -> None:
    for path in (DOCUMENTATION, POLICY):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / NODE_PAGE).write_text(f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n", encoding="utf-8")


def test_the_repository_holds_what_the_tables_make() -> None:
    for path, made in ((DOCUMENTATION, documentation()), (PARAMETER_FILE, parameter_file()), (POLICY, policy())):
        assert (REPOSITORY / path).read_text(encoding="utf-8") == made, f"run {COMMAND}"
    page = (REPOSITORY / NODE_PAGE).read_text(encoding="utf-8")
    assert with_tables(page) == page, f"run {COMMAND}"


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


def test_write_leaves_everything_else_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=r"has no docs/node\.md"):
        write(tmp_path)
    page = tmp_path / NODE_PAGE
    page.parent.mkdir()
    for text in ("nothing", f"{BEGIN} but no end", f"{END} before {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(SceneCompletionError, match="markers"):
            write(tmp_path)
    page.write_text(f"{BEGIN}{END}", encoding="utf-8")
    with pytest.raises(SceneCompletionError, match="has no folder config"):
        write(tmp_path)
    empty_checkout(tmp_path)
    write(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{BEGIN}\n\n| topic |")
    assert text.endswith(f"\n{END}\nrest\n")
    assert "\nold\n" not in text
    assert (tmp_path / PARAMETER_FILE).read_text(encoding="utf-8") == parameter_file()
    write(tmp_path)
    assert page.read_text(encoding="utf-8") == text


def test_the_command_needs_no_ros(tmp_path: Path) -> None:
    empty_checkout(tmp_path)
    without_ros = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs')));"
        "runpy.run_module('scene_completion_ros.ros.documents', run_name='__main__')"
    )
    result = run_python("-c", without_ros, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / DOCUMENTATION).read_text(encoding="utf-8") == documentation()


def test_everything_has_a_row_or_is_named_once() -> None:
    expected = [spec.name for spec in (*TOPICS, *SERVICES) if spec.meaning]
    text = tables()
    assert first_cells(text) == expected
    managed = text.splitlines()[-1]
    for spec in (*TOPICS, *SERVICES):
        assert spec.meaning or f"`{spec.name}`" in managed
        package, _, kind = spec.type_name.split("/")
        assert not spec.meaning or f"| {package}/{kind} |" in text
    assert all(stage in text for stage in STAGES)
