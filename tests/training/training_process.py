"""Trainings in processes of their own, forked from one that has imported everything and run nothing."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from scene_completion_ros import cli


def start_command(
    arguments: Sequence[str], before: Callable[[], None] | None = None, log: Path | None = None
) -> ForkServerProcess:
    """Starts `scene-completion` with some arguments; the exit code of the process is that of the command.

    Importing takes as long as some tens of training steps. The server of the forks does it once; it has no threads, of
    which a fork would inherit the locks.

    Args:
        arguments: What follows `scene-completion`.
        before: A function of a module, or a partial of one, that the process calls first.
        log: Where its messages go; those of the test if left out.
    """
    context = multiprocessing.get_context("forkserver")
    stages = [f"scene_completion_training.stages.{name}" for name in ("single_view", "teacher")]
    context.set_forkserver_preload(["scene_completion_training.runner", *stages])
    process = context.Process(target=_run, args=(list(arguments), before, log))
    process.start()
    return process


def _run(arguments: list[str], before: Callable[[], None] | None, log: Path | None) -> None:
    # As in any process; a loader's worker that the server forked would outlive the training that is killed.
    multiprocessing.set_start_method("fork", force=True)
    if log is not None:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if before is not None:
        before()
    sys.exit(cli.main(arguments))
