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
    with_tables,
)
from scene_completion_ros.ros.topics import SERVICES, TOPICS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_repository_holds_what_the_tables_make() -> None:
    for path, made in ((DOCUMENTATION, documentation()), (PARAMETER_FILE, parameter_file())):
        assert (REPOSITORY / path).read_text(encoding="utf-8") == made, f"run {COMMAND}"
    page = (REPOSITORY / NODE_PAGE).read_text(encoding="utf-8")
    assert with_tables(page) == page, f"run {COMMAND}"


def test_the_policy_of_sros2_allows_what_the_tables_hold() -> None:
    profile = ElementTree.parse(REPOSITORY / "config/security/scene_completion.policy.xml").find(".//profile")
    allowed = {tuple(group.attrib): [entry.text for entry in group] for group in profile}
    assert allowed == {
        ("subscribe",): [spec.name for spec in TOPICS if spec.direction == "in"],
        ("publish",): [spec.name for spec in TOPICS if spec.direction == "out"],
        ("reply",): [spec.name for spec in SERVICES],
    }
