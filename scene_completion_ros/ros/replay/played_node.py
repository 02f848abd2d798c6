"""The completion node that a replay plays to, in a process of its own."""

import ctypes
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.topics import NODE_NAME

STOP_TIMEOUT_S = 10.0
LOG_LINES = 40


class NodeProcess:
    """`scene_completion_node` in a process of its own; as a context manager it ends the process."""

    def __init__(self, namespace: str, parameters: Mapping[str, object]) -> None:
        self.namespace = namespace
        self.full_name = f"{namespace}/{NODE_NAME}"
        arguments = ["--ros-args", "-r", f"__ns:={namespace}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML with everything quoted
        # A file and not a pipe, which what the process starts may keep open after its end. Appending, because its
        # writes share the position of our reads.
        self._log = tempfile.TemporaryFile(mode="a+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "scene_completion_ros.ros.node", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=ending_with_parent(),
        )

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def log(self) -> str:
        """The last lines that it has printed, without colours."""
        self._log.flush()
        self._log.seek(0)
        return re.sub(r"\x1b\[[0-9;]*m", "", "".join(self._log.readlines()[-LOG_LINES:])).strip()

    def peak_memory_mib(self) -> float | None:
        """Largest resident memory so far (`VmHWM`) in MiB; None where the system does not give it."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)

    def stop(self) -> int:
        """End it and return its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def check(self) -> None:
        """Raise SceneCompletionError with the end of its log if the node has ended by itself."""
        status = self._process.poll()
        if status is not None:
            ending = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise SceneCompletionError(f"the node {ending} during the replay", where=self.full_name, cure=self.log())


_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def ending_with_parent() -> Callable[[], None]:
    """What a child does first: listen to SIGINT even in the background, and (Linux) get SIGTERM as its parent ends."""
    # Loaded here: a process that has just been forked loads nothing.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prctl is not None:
            prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    return prepare
