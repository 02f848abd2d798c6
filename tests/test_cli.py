"""The command line: commands, errors in one line, and progress."""

import argparse
import io
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scene_completion_ros import cli, progress
from scene_completion_ros.commands.arguments import Output
from scene_completion_ros.errors import CameraError
from scene_completion_ros.progress import Progress
from tests.checkout import with_this_checkout


def command(run: object) -> SimpleNamespace:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int, default=0)
        parser.add_argument("--output", type=Output(()))

    return SimpleNamespace(__doc__="Count 100 % of it.\n\nMore.", add_arguments=add_arguments, run=run)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    def offer(run: object) -> None:
        monkeypatch.setattr(cli, "find_commands", lambda: {"count": command(run)})

    return offer


def test_values_may_come_behind_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/reproduce.md appends them to `train --config CONFIG`."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file")
        parser.add_argument("--config")
        parser.add_argument("overrides", nargs="*")

    run = lambda args: print(args.file, args.config, *args.overrides)  # noqa: E731
    taking = SimpleNamespace(__doc__="Take.", add_arguments=add_arguments, run=run)
    monkeypatch.setattr(cli, "find_commands", lambda: {"take": taking})
    cli.main(["take", "a.pt", "--config", "b.yaml", "c=1", "d=2"])
    cli.main(["take", "a.pt", "c=1", "--config", "b.yaml", "d=2"])
    assert capsys.readouterr().out == 2 * "a.pt b.yaml c=1 d=2\n"
    with pytest.raises(SystemExit):
        cli.main(["take", "a.pt", "--confog", "b.yaml", "c=1"])
    assert "unrecognized arguments: --confog" in capsys.readouterr().err


def test_a_command_that_is_interrupted_within_a_kernel_says_so(only, capsys: pytest.CaptureFixture[str]) -> None:
    """numba returns a result together with the exception that a signal raised, of which Python makes this one."""

    def run(_: argparse.Namespace) -> int:
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    only(run)
    assert cli.main(["count"]) == cli.INTERRUPTED == 130
    assert capsys.readouterr().err == "scene-completion count: interrupted\n"


def test_numpy_is_not_loaded_before_the_command_has_set_its_threads() -> None:
    """OpenBLAS reads `OPENBLAS_NUM_THREADS` once: the node and a replay set it."""
    loading = "from scene_completion_ros import cli; import scene_completion_ros.ros.node"
    program = f"import sys; {loading}; cli.build_parser(cli.find_commands()); sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env=with_this_checkout(), check=True)


def test_commands_are_listed_by_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    listed = cli.build_parser({name: command(None) for name in ("count", "replay", "train")}).format_help()
    headings = [line.split() for line in listed[listed.index("Run:") :].splitlines()]
    assert [words[0] for words in headings if words] == ["Run:", "replay", "Train:", "train", "Tools:", "count"]
    assert "Count 100 % of it." in listed


def test_bad_input_is_one_line_and_no_traceback(only, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise CameraError("fx is\nzero", where="calib.yaml", cure="Calibrate")

    only(fail)
    assert cli.main(["count"]) == 2
    assert capsys.readouterr().err == "scene-completion count: calib.yaml: fx is | zero. Calibrate\n"


def write_to_a_full_disk(_: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        full.write(bytes(100_000))


def resolve_a_circle(folder: Path) -> None:
    (folder / "circle").symlink_to("circle")
    (folder / "circle").resolve(strict=True)


def answer_of_a_library(_: Path) -> None:
    raise OSError("no model of this name\nin the cache")


def go_down(folder: Path) -> None:
    go_down(folder)


FAILURES: list[tuple[Callable[[Path], object], str]] = [
    (lambda _: Path("/nowhere/it").read_bytes(), "/nowhere/it: No such file or directory. Check the path"),
    (write_to_a_full_disk, "out/put: No space left on device. Make room on the disk, or name a place on another one"),
    (resolve_a_circle, "Name what the link should lead to: it leads to itself"),
    (answer_of_a_library, "out/put: no model of this name | in the cache"),
    (lambda _: np.empty(2**60, np.uint8), "not enough memory (Unable to allocate 1.00 EiB for an array with shape"),
    (go_down, "a file that it read is nested too deeply. Check what it was given"),
    (lambda _: import_module("no_such_package.part"), "the package no_such_package is missing. Install it with: "),
]


@pytest.mark.parametrize(("fail", "said"), FAILURES, ids=[said for _, said in FAILURES])
def test_what_the_machine_lacks_is_one_line_with_its_cure(
    fail: Callable[[Path], object], said: str, only, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only(lambda args: fail(tmp_path))
    assert cli.main(["count", "--output", "out/put"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("scene-completion count: ") and said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("terminal", "wanted"),
    [
        (True, "Starting ...\n\r[1/3] 20 ms\r[2/3] 20 ms, 8 s left\r[3/3] 20 ms" + 10 * " " + "\r" + 11 * " " + "\r"),
        (False, "Starting ...\n[2/3] 20 ms, 8 s left\n[3/3] 20 ms\n"),
    ],
)
def test_a_terminal_has_one_line_and_a_file_one_now_and_then(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, wanted: str
) -> None:
    """A step takes 8 s; lines of a file are 10 s apart."""
    now_s, stream = [0.0], io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(3) as shown:
        shown.line("Starting ...")
        for later_s in (8.0, 16.0, 30.0):
            now_s[0] = later_s
            shown.step("20 ms")
    assert stream.getvalue() == wanted
