"""Every command where only the robot's packages are installed, as `make demo` does: help, or which extra is missing."""

import json
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from scene_completion_ros import cli
from scene_completion_ros.bags.reader import DEMO_DRIVE
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE
from tests.checkout import installed_with, run_python
from tests.commands.command_lines import COMMANDS, line

RUN = """
import contextlib, io, json, sys, traceback
from importlib.machinery import PathFinder

hidden, lines = json.loads(sys.argv[1])


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)


hidden = {name for name in hidden if not name.startswith("scene_completion")}
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
from scene_completion_ros import cli

for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(line)
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def run_all(lines: list[list[str]], folder: Path, extra: str | None) -> list[tuple[int | str | None, str]]:
    """Exit codes, or tracebacks, of commands and what they print: with the packages of an extra, or with none."""
    there = set() if extra is None else installed_with(extra)
    others = [module for module, of in packages_distributions().items() if not there & set(map(canonicalize_name, of))]
    done = run_python("-c", RUN, json.dumps([others, lines]), cwd=folder)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(result)) for result in done.stdout.splitlines()]


def test_every_command_has_its_help(tmp_path: Path) -> None:
    lines = [[*command, "--help"] for command, _ in COMMANDS]
    for words, (code, said) in zip(lines, run_all(lines, tmp_path, None), strict=True):
        assert code == 0 and said.startswith(f"usage: scene-completion {' '.join(words[:-1])}"), (words, code, said)
        assert "%%" not in said


def test_every_command_says_which_extra_it_needs(tmp_path: Path) -> None:
    # These do their work there, or run others of these.
    own = (["replay"], ["doctor"], ["extract"], ["calibrate"])
    commands = [one for one in COMMANDS if one[0] not in own]
    # What is wrong with these, or lacking, would be reported first.
    there = {"--data": DEMO_DRIVE, "--bundle": DEFAULT_BUNDLE, "--student": DEFAULT_BUNDLE}
    there |= {"--checkpoint": "nothing", "--foundation": "nothing", "--output": "new", "--licence": "none"}
    lines = []
    for words, actions in commands:
        given = {one: there[one.option_strings[-1]] for one in actions if {*one.option_strings} & {*there}}
        lines.append(line(words, actions, given))
    # Images need no student, and refuse one.
    lines = [words[: words.index("--student")] if words[:2] == ["features", "images"] else words for words in lines]
    for words, (code, said) in zip(lines, run_all(lines, tmp_path, "ros"), strict=True):
        assert code == 2, (words, code, said)
        trains = cli.COMMANDS[words[0]].startswith("scene_completion_training")
        extra = "text" if words[0] == "vocabulary" else "train" if trains else ""
        assert (f"-m pip install 'scene_completion_ros[{extra}]'" in said) == bool(extra), (words, said)
    assert not list(tmp_path.iterdir())


def test_ros_itself_is_an_extra(tmp_path: Path) -> None:
    ((code, said),) = run_all([["replay"]], tmp_path, "text")
    assert code == 2
    assert "Source a ROS 2 distribution, or install it with: " in said and "scene_completion_ros[ros]'" in said


def test_the_extra_of_the_text_encoder_is_enough_for_it(tmp_path: Path) -> None:
    encoder = ["--encoder", "./nothing"]
    lines = [["vocabulary", "a", *encoder, "--output", "bank"], ["vocabulary", *encoder]]
    for code, said in run_all(lines, tmp_path, "text"):
        assert code == 2 and "pip install" not in said and "nothing" in said
