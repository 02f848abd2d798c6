"""One schema: the code, the parameter file and the documentation agree."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import yaml

from scene_completion_ros.ros.parameters import NodeParameters, markdown_table

REPOSITORY = Path(__file__).resolve().parents[2]


def test_parameter_file_holds_every_parameter_at_its_default() -> None:
    document = yaml.safe_load((REPOSITORY / "config" / "scene_completion.yaml").read_text(encoding="utf-8"))
    assert document == {"/**": {"ros__parameters": asdict(NodeParameters())}}


def test_documentation_holds_the_table() -> None:
    assert markdown_table() in (REPOSITORY / "docs" / "node.md").read_text(encoding="utf-8")


def test_every_parameter_is_described_and_its_default_allowed() -> None:
    for entry in fields(NodeParameters):
        assert entry.metadata["description"].endswith("."), entry.name
        choices, bounds = entry.metadata["choices"], entry.metadata["bounds"]
        assert not choices or entry.default in choices
        assert bounds is None or bounds[0] <= entry.default <= bounds[1]
    assert markdown_table().count("\n") == len(fields(NodeParameters)) + 2
