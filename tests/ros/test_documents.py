"""What is written from the tables, compared with what is in the repository."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from scene_completion_ros.ros.documents import (
    COMMAND,
    DOCUMENTATION,
    NODE_PAGE,
    PARAMETER_FILE,
    documentation,
    parameter_file,
    tables,
    with_tables,
)
from scene_completion_ros.ros.parameters.schema import SCHEMA
from scene_completion_ros.ros.topics import SERVICES, STAGES, TOPICS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_repository_holds_what_the_tables_make() -> None:
    for path, made in ((DOCUMENTATION, documentation()), (PARAMETER_FILE, parameter_file())):
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


def test_everything_has_a_row_or_is_named_once() -> None:
    expected = [spec.name for spec in (*TOPICS, *SERVICES) if spec.meaning]
    text = tables()
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == expected
    managed = text.splitlines()[-1]
    for spec in (*TOPICS, *SERVICES):
        assert spec.meaning or f"`{spec.name}`" in managed
        package, _, kind = spec.type_name.split("/")
        assert not spec.meaning or f"| {package}/{kind} |" in text
    assert all(stage in text for stage in STAGES)


def test_the_policy_of_sros2_allows_what_the_tables_hold() -> None:
    profile = ElementTree.parse(REPOSITORY / "config/security/scene_completion.policy.xml").find(".//profile")
    allowed = {tuple(group.attrib): [entry.text for entry in group] for group in profile}
    assert allowed == {
        ("subscribe",): [spec.name for spec in TOPICS if spec.direction == "in"],
        ("publish",): [spec.name for spec in TOPICS if spec.direction == "out"],
        ("reply",): [spec.name for spec in SERVICES],
    }
