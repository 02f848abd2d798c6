from __future__ import annotations

import argparse
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from scene_completion_ros import cli
from scene_completion_ros.errors import CameraError
from tests.checkout import run_python


def command(run: object) -> SimpleNamespace:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int, default=0)

    return SimpleNamespace(__doc__="Count 100 % of it.\n\nMore.", add_arguments=add_arguments, run=run)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    def offer(run: object) -> None:
        monkeypatch.setattr(cli, "find_commands", lambda: {"count": command(run)})

    return offer


def test_the_exit_code_is_that_of_the_command(only) -> None:
    only(lambda args: args.number)
    assert cli.main(["count", "--number", "7"]) == 7


def test_bad_input_is_one_line_and_no_traceback(only, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise CameraError("fx is\nzero", where="calib.yaml", cure="Calibrate")

    only(fail)
    assert cli.main(["count"]) == 2
    assert capsys.readouterr().err == "scene-completion count: calib.yaml: fx is | zero. Calibrate\n"


def test_a_missing_file_is_one_line(only, capsys: pytest.CaptureFixture[str]) -> None:
    only(lambda args: len(Path("/nowhere/at/all").read_bytes()))
    assert cli.main(["count"]) == 2
    assert capsys.readouterr().err == "scene-completion count: /nowhere/at/all: No such file or directory\n"


def test_defects_keep_their_traceback(only) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    only(fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["count"])


def test_an_interruption_has_its_exit_code(only) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    only(interrupt)
    assert cli.main(["count"]) == 130


def test_help_lists_the_first_line_of_every_command(only, capsys: pytest.CaptureFixture[str]) -> None:
    only(lambda args: 0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "Count 100 % of it." in text
    assert "More." not in text


def test_installed_packages_add_commands_and_broken_ones_do_not_harm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        EntryPoint("added", "scene_completion_ros.commands.complete", cli.GROUP),
        EntryPoint("broken", "no_such_package.commands.broken", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry for entry in entries if entry.group == group])
    commands = cli.find_commands()
    assert {"added", "broken", "complete", "replay"} <= set(commands)
    assert cli.main(["broken", "whatever"]) == 2
    assert "no_such_package" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["build-engine", "complete", "replay"])
def test_help_needs_neither_torch_nor_ros_nor_an_engine(name: str) -> None:
    heavy = ("torch", "rclpy", "numba", "openvino", "onnxruntime", "cv2", "rosbags", "rerun")
    heavy += ("pycuda", "tensorrt", "tensorrt_rtx")
    code = (
        "import sys\n"
        f"for name in {heavy!r}: sys.modules[name] = None\n"
        "from scene_completion_ros.cli import main\n"
        f"main([{name!r}, '--help'])"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "usage: scene-completion" in done.stdout


def test_an_installation_offers_the_commands_of_a_checkout() -> None:
    installed = entry_points(group=cli.GROUP)
    assert {entry.name: entry.value for entry in installed if entry.name in cli.COMMANDS} == cli.COMMANDS
