"""The tables of the README, compared with what they are made of; the running node is in `test_security_policy`."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.readme_tables import BEGIN, COMMAND, END, README, tables, with_tables, write
from scene_completion_ros.ros.topics import SERVICES, STAGES, TOPICS, stage_topic

REPOSITORY = Path(__file__).resolve().parents[2]


def first_cells(text: str) -> list[str]:
    """What stands in the first cells of the tables, without the quotes around it."""
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]


def test_the_readme_holds_the_tables_of_now() -> None:
    text = (REPOSITORY / README).read_text(encoding="utf-8")
    assert with_tables(text) == text, f"run {COMMAND}"


def test_everything_has_a_row_or_is_named_once() -> None:
    stages = {stage_topic(stage) for stage in STAGES}
    described = [spec.name for spec in TOPICS if spec.meaning and spec.name not in stages]
    at = described.index(topics.DROPPED) + 1
    expected = [*described[:at], stage_topic("<stage>"), *described[at:]]
    expected += [spec.name for spec in SERVICES if spec.meaning]
    expected += [spec.name for spec in SCHEMA]
    text = tables()
    assert first_cells(text) == expected
    (managed,) = (line for line in text.splitlines() if line.startswith("And what every managed node"))
    for spec in (*TOPICS, *SERVICES):
        assert spec.meaning or f"`{spec.name}`" in managed
    assert all(stage in text for stage in STAGES)


def test_no_name_is_there_twice() -> None:
    listed = [spec.name for spec in (*TOPICS, *SERVICES)]
    assert len(set(listed)) == len(listed)


def test_the_page_of_the_node_has_every_topic_and_service_with_its_type() -> None:
    rows = [line for line in (REPOSITORY / "docs" / "node.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    stages = {stage_topic(stage) for stage in STAGES}
    for spec in (*TOPICS, *SERVICES):
        if not spec.meaning or spec.name == "/clock":
            continue
        name = stage_topic("<stage>") if spec.name in stages else spec.name
        package, _, kind = spec.type_name.split("/")
        assert any(f"`{name}`" in row.split("|")[1] and f"{package}/{kind}" in row for row in rows), spec


def test_write_leaves_everything_else_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=r"has no README\.md"):
        write(tmp_path)
    readme = tmp_path / README
    for text in ("nothing", f"{BEGIN} but no end", f"{END} before {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"):
        readme.write_text(text, encoding="utf-8")
        with pytest.raises(SceneCompletionError, match="markers"):
            write(tmp_path)
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\nrest\n", encoding="utf-8")
    write(tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{BEGIN}\n\n| topic |")
    assert text.endswith(f"\n{END}\nrest\n")
    assert "\nold\n" not in text
    write(tmp_path)
    assert readme.read_text(encoding="utf-8") == text
