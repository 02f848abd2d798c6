"""Documents, configurations and Dockerfiles of the repository: they hold what the code has, takes and installs."""

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scene_completion_ros.cli import build_parser, find_commands
from scene_completion_ros.ros.parameters import SCHEMA
from scene_completion_ros.ros.topics import TOPICS
from scene_completion_training import CONFIGS
from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from tests.checkout import ROOT

# The services, which every managed node has.
OF_STATES = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
OF_PARAMETERS = ("describe_parameters", "get_parameters", "get_parameter_types", "list_parameters", "set_parameters")
OTHERS = ("set_parameters_atomically", "get_type_description")
SERVICES = [f"~/{name}" for name in (*OF_STATES, *OF_PARAMETERS, *OTHERS)]


def test_the_page_of_topics_has_those_of_the_node_and_no_others() -> None:
    page = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (\w+)/(\w+) \| (in|out) \| (.+) \|$", page, re.MULTILINE)
    (line,) = re.findall(r"^The node also has what every managed node of ROS 2 has:\n\n(.+)$", page, re.MULTILINE)
    others = re.findall("`(.+?)`", line)
    found = {
        name: (f"{package}/msg/{kind}", way, way == "out" and text.endswith("latched"))
        for name, package, kind, way, text in rows
    }
    wanted = {spec.name: (spec.type_name, spec.direction, spec.latched) for spec in TOPICS}
    assert sorted([*found, *others]) == sorted([*wanted, *SERVICES])
    assert found == {name: wanted[name] for name in found}


def test_the_page_of_parameters_has_those_of_the_node_and_no_others() -> None:
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| (.+?) \| (.+?) \| (live|read-only) \| ", page, re.MULTILINE)
    assert rows == [
        (
            spec.name,
            spec.type_name,
            "empty" if spec.default == "" else f"`{json.dumps(spec.default)}`".replace('"', ""),
            ", ".join(f"`{choice}`" for choice in spec.choices) or spec.allowed,
            "live" if spec.live else "read-only",
        )
        for spec in SCHEMA
    ]


def test_the_policy_of_sros2_allows_what_the_tables_hold() -> None:
    profile = ElementTree.parse(ROOT / "config/security/scene_completion.policy.xml").find(".//profile")
    allowed = {tuple(group.attrib): [entry.text for entry in group] for group in profile}
    assert allowed == {
        ("subscribe",): [spec.name for spec in TOPICS if spec.direction == "in"],
        ("publish",): [spec.name for spec in TOPICS if spec.direction == "out"],
        ("reply",): SERVICES,
    }


DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*[!e]"))


def bash(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *options, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("name", ["run", "workspace"])
def test_what_continuous_integration_runs_can_be_run(name: str) -> None:
    script = ROOT / ".ci" / name
    assert os.access(script, os.X_OK)
    assert bash(script.read_text(encoding="utf-8"), "-n").returncode == 0


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfile_copies_what_is_there_and_runs_what_is_installed(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    for command in re.findall(r"^RUN (.+)$", text, re.MULTILINE):
        assert bash(command, "-n").returncode == 0, command
    (started,) = re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE)
    program = started.split(", ")[0].strip('"')
    assert f'"{program} = scene_completion_ros.' in (ROOT / "setup.py").read_text(encoding="utf-8")


def commands(page: Path) -> list[list[str]]:
    """Arguments of each command of a page, as a shell reads them, but for wildcards and loops."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    script = ""
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        if line.startswith("scene-completion "):
            script += f"printf '%s\\0' {line.removeprefix('scene-completion ')}\necho\n"
        elif re.match("[A-Z]=", line):  # what the commands below it name
            script += f"{line}\n"
    shown = bash(script, "-f")
    assert shown.returncode == 0, shown.stderr
    return [line.rstrip("\0").split("\0") for line in shown.stdout.splitlines()]


REPRODUCE = ROOT / "docs" / "reproduce.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def check_commands(given: list[list[str]]) -> None:
    """The command line takes these options, and configurations these values."""
    parser = build_parser(find_commands())
    for arguments in given:
        parsed, further = parser.parse_known_args(arguments)
        assert all(re.match(r"[a-z_.]+=", word) for word in further), arguments
        config = ROOT / (getattr(parsed, "config", None) or CONFIGS / "single_view.yaml")
        if arguments[0] == "train" and config.exists():  # others stand on the page
            values = [*parsed.overrides, *further]
            read_configuration(config, values, TrainingConfiguration).check()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_command_line_takes_each_command_of_a_page(page: Path) -> None:
    check_commands(commands(page))


EXPERIMENTS = [file for file in sorted((ROOT / "training" / "experiments").glob("*.sh")) if file.stem != "common"]
STUB = """#!/bin/bash
[ "$1" != -c ] || { echo a_student; exit; }  # what a script asks Python
printf '%s\\0' "$@" >> "$COMMANDS"
printf '\\036' >> "$COMMANDS"
"""


@pytest.mark.parametrize("script", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_command_line_takes_each_command_of_an_experiment(script: Path, tmp_path: Path) -> None:
    """All of its rows; those that are trained, shortened, are in `tests/training/experiments`."""
    for name in ("scene-completion", "python"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    settings = {"OUT": tmp_path / "out", "DATA": tmp_path, "COMMANDS": tmp_path / "commands", "LANES": 1}
    environment = {**{key: str(of) for key, of in settings.items()}, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], env=environment, check=True)
    misspelt = subprocess.run(
        ["bash", str(script)], env={**environment, "ROWS": "mask"}, capture_output=True, check=False
    )
    assert misspelt.returncode == 1 and b"ROWS: mask is no row of" in misspelt.stderr
    recorded = (tmp_path / "commands").read_text().split("\036")[:-1]
    given = [command.rstrip("\0").split("\0") for command in recorded]
    check_commands([arguments for arguments in given if arguments[0] != "-m"])
    trained, scored = ([command for command in given if command[0] == of] for of in ("train", "evaluate"))
    assert len(trained) > 5 and scored


def test_the_page_of_published_systems_names_each_configuration() -> None:
    found, text = commands(REPRODUCE), REPRODUCE.read_text(encoding="utf-8")
    assert len(found) > 20 and {arguments[0] for arguments in found} == {"train", "evaluate"}
    files = {file.name for file in (ROOT / "training" / "configs" / "full_size").glob("*.yaml")}
    assert set(re.findall(r"training/configs/full_size/(\w+\.yaml)", text)) == files
