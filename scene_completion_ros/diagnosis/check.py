"""What a check finds, and how one that may crash or hang is kept from harming the others: in a process of its own."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.replay.played_node import with_package

RESULT = "scene_completion_finding "  # a line of the output that begins so holds the finding
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST_LINE = 300
LOADS_S = 60.0  # a limit for what only loads something


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
    cure: str  # what to do where it raises something that brings no cure of its own, crashes or hangs
    limit_s: float = 0.0  # seconds that it may take, in a process of its own; 0 for one that can neither crash nor hang
    needed: bool = True  # the package does nothing without it; otherwise raising is a warning
    of_ros: bool = False  # it does not apply where there is no rclpy, working or not

    def run(self, bundle: Path | None) -> Finding:
        """The finding; `bundle`: folder of the student that is looked at, None for the shipped one."""
        if not self.limit_s:
            return self.here()
        command = [sys.executable, "-m", "scene_completion_ros.diagnosis.checks", self.name, str(bundle or "")]
        # A file and not a pipe: what a killed process has started may hold it open.
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
            begun = partial(subprocess.run, command, env=with_package(os.environ), timeout=self.limit_s)
            try:
                status = begun(stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
                ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                ending = f"its process ended {ended}"
            except subprocess.TimeoutExpired:
                ending = f"gave no answer within {self.limit_s:.0f} s"
            log.seek(0)
            lines = [line for line in (COLOURS.sub("", line).strip() for line in log) if line]
        for line in reversed(lines):
            if line.startswith(RESULT):
                answer: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                return Finding(**answer | {"status": Status(answer["status"])})
        errors = [line for line in lines if "error" in line.lower()]
        found = ": ".join([ending, *(line[:LONGEST_LINE] for line in (errors or lines)[-1:])])
        return Finding(self._broken, found, self.cure)

    def here(self) -> Finding:
        """The finding of this process; a check that raises has failed, with the text of the exception."""
        if self.of_ros and not find_spec("rclpy"):
            return not_applicable("rclpy is not there")
        details: dict[str, Any] = {}
        try:
            finding = self.examine(details)
        except SceneCompletionError as error:
            where = f"{error.where}: " if error.where else ""
            finding = Finding(self._broken, f"{where}{error.what}", error.cure or self.cure)
        except Exception as error:  # whatever is broken, the other checks are still to be run
            finding = Finding(self._broken, in_words(error), self.cure)
        return replace(finding, details=details)

    @property
    def _broken(self) -> Status:
        return Status.FAILED if self.needed else Status.WARNING


def in_words(error: Exception) -> str:
    """Name and text of an exception, in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
