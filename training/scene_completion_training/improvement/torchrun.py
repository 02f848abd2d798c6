"""A training in several processes, of one machine or more, under torchrun; when this process ends, so do they."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scene_completion_ros.child_processes import ending_with_parent
from scene_completion_ros.errors import ConfigurationError, ImprovementError

SHOWN_LINES = 8
"""Of what a training said before it failed."""
_KEPT_LINES = 500
_OF_TORCHRUN = re.compile(r"[WI]\d{4} [\d:.]+ ")
_FAILED = re.compile(r"E\d{4} [\d:.]+ .*torch/distributed/")
_EXIT_CODE = re.compile(r"\s*exitcode\s*: (.+)")


@dataclass(frozen=True)
class Torchrun:
    """Processes that train together; the options of `torchrun` have the same names.

    Attributes:
        nproc_per_node: Processes on each machine, each with its own device.
        nnodes: Machines.
        rdzv_endpoint: HOST:PORT of one of them, where they meet; with several alone.

    Raises:
        ConfigurationError: There is no process, or nobody says where machines meet.
    """

    nproc_per_node: int = 1
    nnodes: int = 1
    rdzv_endpoint: str = ""

    def __post_init__(self) -> None:
        if min(self.nproc_per_node, self.nnodes) < 1:
            raise ConfigurationError("less than 1", where="--nproc-per-node, --nnodes", cure="Give at least 1")
        if (self.nnodes > 1) != bool(self.rdzv_endpoint):
            raise ConfigurationError(
                "several machines have to meet, and one alone has not",
                where="--nnodes, --rdzv-endpoint",
                cure="Give both: the number of machines, and HOST:PORT of one of them",
            )

    @property
    def processes(self) -> int:
        """On all machines together."""
        return self.nproc_per_node * self.nnodes

    def arguments(self, file: Path, overrides: Sequence[str], threads: int) -> list[str]:
        """What follows `torchrun`, on every machine alike.

        Args:
            file: Configuration of the training; all machines see it under this path.
            overrides: `KEY=VALUE` of it.
            threads: Threads of each process.
        """
        met = ["--standalone", "--local-addr=127.0.0.1"]
        if self.nnodes > 1:
            meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={self.rdzv_endpoint}", f"--rdzv-id={file.parent.name}"]
            met = [f"--nnodes={self.nnodes}", *meeting]
        command = ["-m", "scene_completion_ros.cli", "train", "--config", str(file), "--threads", str(threads)]
        own = [f"devices={self.nproc_per_node}", f"nodes={self.nnodes}"]
        return [*met, f"--nproc-per-node={self.nproc_per_node}", *command, *overrides, *own]


def train_together(launch: Torchrun, file: Path, overrides: Sequence[str], threads: int | None = None) -> None:
    """Trains as `scene-completion train` does, from the last checkpoint where there is one; shows what it says.

    Where several machines take part, the same command has to be started on the others. It is printed.

    Args:
        file: Configuration of the training.
        overrides: `KEY=VALUE` of it.
        threads: Threads of each process; the cores are shared out where it is None.

    Raises:
        ImprovementError: The training failed; with the last that it said.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // launch.nproc_per_node)
    arguments = launch.arguments(file, overrides, threads)
    if launch.nnodes > 1:
        told = shlex.join(["torchrun", *arguments])
        print(f"on the other {launch.nnodes - 1} of {launch.nnodes} machines, start now: {told}", file=sys.stderr)
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
        start_new_session=True,  # Ctrl-C reaches it once, from here
        preexec_fn=ending_with_parent(),
    )
    assert process.stdout is not None
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        for line in io.TextIOWrapper(process.stdout, errors="replace", newline=""):  # bars end with \r
            sys.stderr.write(line)
            sys.stderr.flush()
            said.append(line)
        code = process.wait()
    except BaseException:
        process.terminate()  # it ends the processes of the training, and then itself
        process.wait()
        raise
    if code:
        raise ImprovementError(
            f"it ended with exit code {code}: {_last_words(said)}",
            where="training with torchrun",
            cure="The old student stays. Start the same command again: the training goes on from its last checkpoint",
        )


def _last_words(said: Sequence[str]) -> str:
    """The last lines of the training itself, and how torchrun says that its first process ended."""
    lines = [line.rstrip() for line in said if line.endswith("\n") and line.strip()]
    failed = next((number for number, line in enumerate(lines) if _FAILED.match(line)), len(lines))
    own = [line for line in lines[:failed] if not _OF_TORCHRUN.match(line)]
    codes = [found[1] for line in lines[failed:] if (found := _EXIT_CODE.match(line))]
    return "\n".join([*own[-SHOWN_LINES:], *(f"exit code {code}" for code in codes[:1])])
