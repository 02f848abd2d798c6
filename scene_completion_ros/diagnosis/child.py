"""What a check finds, and how it is kept from harming the others: probes run in processes of their own.

What crashes or hangs there becomes a finding here.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.replay.played_node import with_package

RESULT = "scene_completion_probe "  # a line of the output that begins so holds the answer
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_LINE = 300
LIMIT_S = 60.0  # for what only loads something


class ProbeError(SceneCompletionError):
    """A probe raised, crashed or took too long."""


def run_probe(
    name: str, *arguments: str, limit_s: float = LIMIT_S, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Run a function of `probes` in a new process. Raises ProbeError: it raised, ended otherwise, or was killed.

    `limit_s`: the process is killed when it takes longer; `environment`: its environment.
    """
    command = [sys.executable, "-m", "scene_completion_ros.diagnosis.probes", name, *arguments]
    # A file and not a pipe: what a killed probe has started may hold it open.
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        run = partial(subprocess.run, command, env=with_package(environment), timeout=limit_s)
        try:
            status = run(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            ending = f"its process ended {ended}"
        except subprocess.TimeoutExpired:
            ending = f"gave no answer within {limit_s:.0f} s"
        log.seek(0)
        lines = [line for line in (COLOURS.sub("", line).strip() for line in log) if line]
    for line in reversed(lines):
        if line.startswith(RESULT):
            answer: dict[str, Any] = json.loads(line.removeprefix(RESULT))
            if "error" in answer:
                raise ProbeError(**answer["error"])
            return dict(answer["result"])
    errors = [line for line in lines if "error" in line.lower()]
    raise ProbeError(": ".join([ending, *(line[:LONGEST_LINE] for line in (errors or lines)[-1:])]))


class Status(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: Status
    found: str  # what was found, one sentence
    cure: str = ""  # what to do about it; empty where nothing is to be done
    details: Mapping[str, Any] = field(default_factory=dict)  # the same for programs; plain values for ``json.dumps``


ok, warning = partial(Finding, Status.OK), partial(Finding, Status.WARNING)
failed, not_applicable = partial(Finding, Status.FAILED), partial(Finding, Status.NOT_APPLICABLE)


@dataclass(frozen=True)
class Check:
    """A named check."""

    name: str  # its name, which stays the same between versions
    examine: Callable[[dict[str, Any]], Finding]  # looks, and notes the details; may raise anything
    cure: str  # what to do where it raises something that brings no cure of its own

    def run(self) -> Finding:
        """The finding; a check that raises has failed, with the text of the exception."""
        details: dict[str, Any] = {}
        try:
            finding = self.examine(details)
        except SceneCompletionError as error:
            where = f"{error.where}: " if error.where else ""
            finding = failed(f"{where}{error.what}", error.cure or self.cure)
        except Exception as error:  # whatever is broken, the other checks are still to be run
            finding = failed(f"{type(error).__name__}: {error}", self.cure)
        return replace(finding, details=details)
