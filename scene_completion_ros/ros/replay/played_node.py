"""The completion node that a replay plays to, in a process of its own."""

import ctypes
import json
import os
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
# Whatever the user's environment asks for.
_LOG_FORMAT = {"RCUTILS_COLORIZED_OUTPUT": "0", "RCUTILS_CONSOLE_OUTPUT_FORMAT": "[{severity}] [{name}]: {message}"}
_LOG_LINE = re.compile(r"\[(?P<severity>[A-Z]+)\] \[(?P<logger>[^\]]+)\]: (?P<text>.*)")


class NodeProcess:
    """`scene_completion_node` in a process of its own; as a context manager it ends the process.

    `hear`: called with severity and text of each line that the node has logged, at the next `check` or `stop`.
    """

    def __init__(self, namespace: str, parameters: Mapping[str, object], hear: Callable[[str, str], None]) -> None:
        self.namespace, self._hear, self._heard = namespace, hear, 0
        self.full_name = f"{namespace}/{NODE_NAME}"
        self._logger = self.full_name.strip("/").replace("/", ".")
        arguments = ["--ros-args", "-r", f"__ns:={namespace}", "--log-level", f"{self._logger}:=debug"]
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
            env=os.environ | _LOG_FORMAT,
        )

    def __enter__(self) -> "NodeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def log(self) -> str:
        """The last lines that it has printed, without those for debugging."""
        self._log.seek(0)
        return "".join([line for line in self._log if not line.startswith("[DEBUG]")][-LOG_LINES:]).strip()

    def _listen(self) -> None:
        file = self._log.fileno()
        content = os.pread(file, os.fstat(file).st_size - self._heard, self._heard)
        whole = content[: content.rfind(b"\n") + 1]
        self._heard += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            found = _LOG_LINE.fullmatch(line)
            if found and found["logger"] == self._logger:
                self._hear(found["severity"], found["text"])

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
        status = self._process.wait()
        self._listen()
        return status

    def check(self) -> None:
        """Raise SceneCompletionError with the end of its log if the node has ended by itself."""
        status = self._process.poll()
        self._listen()
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
