"""The commands of docs/reproduce.md: each is one that the command line takes, and every configuration is named."""

import re
import subprocess

from scene_completion_ros.cli import build_parser, find_commands
from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from tests.checkout import ROOT


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
    text = (ROOT / "docs" / "reproduce.md").read_text()
    files = {file.name for file in (ROOT / "training" / "configs" / "full_size").glob("*.yaml")}
    assert set(re.findall(r"training/configs/full_size/(\w+\.yaml)", text)) == files
