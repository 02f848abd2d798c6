"""docs/reproduce.md has each value of the configurations of published experiments, and no other."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scene_completion_ros.cli import build_parser, find_commands
from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from tests.checkout import ROOT

FULL_SIZE = ROOT / "training" / "configs" / "full_size"
OWN = re.compile(
    r"output|(start|features)_from|teacher|checkpoint_every|validate_every|"
    r"data\.(root|sources|frames|validation\w*|cache|workers|class_images)"
)
"""Keys of a user's machine, and of when something is looked at."""


def flat(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def values(file: Path) -> dict[str, Any]:
    found = dict(flat(yaml.safe_load(file.read_text())))
    return {key: value for key, value in found.items() if not OWN.fullmatch(key)}


def tables() -> list[list[list[str]]]:
    """Rows of cells of each table of hyper-parameters, without the line below the heading."""
    text = (ROOT / "docs" / "reproduce.md").read_text().partition("## Hyper-parameters")[2]
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip().strip("`") for cell in line[1:-1].split("|")])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


@pytest.mark.parametrize("file", sorted(FULL_SIZE.glob("*.yaml")), ids=lambda file: file.stem)
def test_each_value_of_a_configuration_is_on_the_page(file: Path) -> None:
    same, differing, raw, *others = tables()
    expected = values(file)
    of_rooms = [table for table in others if file.stem in table[0]]
    if of_rooms:
        (table,) = of_rooms
        column = table[0].index(file.stem)
        assert {row[0]: yaml.safe_load(row[column]) for row in table[1:] if row[column]} == expected
        return
    on_page = {row[0]: yaml.safe_load(row[1]) for row in same[1:] if row[0] in expected}
    system, _, data = file.stem.partition("_kitti_")
    column = differing[0].index(system)
    on_page |= {row[0]: yaml.safe_load(row[column]) for row in differing[1:] if row[column]}
    if data == "raw":
        column = raw[0].index(file.stem)
        on_page |= {row[0]: yaml.safe_load(row[column]) for row in raw[1:] if row[column]}
        for key in ("far_frames", "in_turn"):  # of fisheyes
            on_page.pop(f"data.views.{key}")
    assert on_page == expected


def test_the_page_has_no_row_of_a_key_that_no_file_has_and_names_every_file() -> None:
    files = list(FULL_SIZE.glob("*.yaml"))
    assert {row[0] for table in tables() for row in table[1:]} <= {key for file in files for key in values(file)}
    text = (ROOT / "docs" / "reproduce.md").read_text()
    assert set(re.findall(r"training/configs/full_size/(\w+\.yaml)", text)) == {file.name for file in files}


def commands() -> list[list[str]]:
    """Arguments of each command of the page, as a shell reads them, but for wildcards."""
    text = (ROOT / "docs" / "reproduce.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    wanted = [line.removeprefix("scene-completion ") for line in lines if line.startswith("scene-completion ")]
    script = "".join(f"printf '%s\\0' {line}\necho\n" for line in wanted)
    shown = subprocess.run(["bash", "-fc", script], check=True, capture_output=True, text=True).stdout
    return [line.rstrip("\0").split("\0") for line in shown.splitlines()]


def test_the_command_line_takes_each_command_of_the_page() -> None:
    """With the options it has, and configurations that take these values."""
    found, parser = commands(), build_parser(find_commands())
    assert len(found) > 20 and {arguments[0] for arguments in found} == {"train", "evaluate", "import-checkpoint"}
    for arguments in found:
        parsed = parser.parse_args(arguments)
        if arguments[0] == "train":
            read_configuration(ROOT / parsed.config, parsed.overrides, TrainingConfiguration).check()
