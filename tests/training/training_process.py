"""Trainings in processes of their own, forked from one that has imported everything and run nothing."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess

from scene_completion_ros import cli


def start_command(arguments: Sequence[str]) -> ForkServerProcess:
    """Starts `scene-completion` with some arguments; the exit code of the process is that of the command.

    Importing takes as long as some tens of training steps. The server of the forks does it once; it has no threads, of
    which a fork would inherit the locks.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scene_completion_training.runner"])
    process = context.Process(target=_run, args=(list(arguments),))
    process.start()
    return process


def _run(arguments: list[str]) -> None:
    # As in any process; a loader's worker that the server forked would outlive the training that is killed.
    multiprocessing.set_start_method("fork", force=True)
    sys.exit(cli.main(arguments))
