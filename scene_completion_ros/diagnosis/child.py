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
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.replay.played_node import with_package

RESULT = "scene_completion_probe "  # a line of the output that begins so holds the answer
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_LINE = 300


class ProbeError(SceneCompletionError):
    """A probe raised, crashed or took too long."""


def run_probe(
    name: str, *arguments: str, limit_s: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a function of `probes` in a new process. Raises ProbeError: it raised, ended otherwise, or was killed.

    `limit_s`: the process is killed when it takes longer; `environment`: its environment, by default that of this
    process.
    """
    command = [sys.executable, "-m", "scene_completion_ros.diagnosis.probes", name, *arguments]
    variables = with_package(os.environ if environment is None else environment)
    # A file and not a pipe: what a killed probe has started may hold it open.
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = [COLOURS.sub("", line).strip() for line in log]
    if status is None:
        raise ProbeError(f"gave no answer within {limit_s:.0f} s{_last_words(lines)}")
    return _answer(lines, status)


def _answer(lines: list[str], status: int) -> dict[str, Any]:
    for line in reversed(lines):
        if line.startswith(RESULT):
            answer: dict[str, Any] = json.loads(line.removeprefix(RESULT))
            if "error" in answer:
                raise ProbeError(**answer["error"])
            result: dict[str, Any] = answer["result"]
            return result
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    raise ProbeError(f"its process ended {how}{_last_words(lines)}")


def _last_words(lines: list[str]) -> str:
    spoken = [line for line in lines if line and not line.startswith(RESULT)]
    errors = [line for line in spoken if "error" in line.lower()]
    return f": {(errors or spoken)[-1][:LONGEST_LINE]}" if spoken else ""


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


@dataclass(frozen=True)
class Check:
    """A named check."""

    name: str  # its name, which stays the same between versions
    examine: Callable[[], Finding]  # looks; may raise anything
    cure: str  # what to do where it raises something that brings no cure of its own

    def run(self) -> Finding:
        """The finding; a check that raises has failed, with the text of the exception."""
        try:
            return self.examine()
        except SceneCompletionError as error:
            where = f"{error.where}: " if error.where else ""
            return Finding(Status.FAILED, f"{where}{error.what}", error.cure or self.cure)
        except Exception as error:  # whatever is broken, the other checks are still to be run
            return Finding(Status.FAILED, f"{type(error).__name__}: {error}", self.cure)
