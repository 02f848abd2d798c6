import io
import sys

import pytest

from scene_completion_ros import progress
from scene_completion_ros.progress import Progress


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


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
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    with Progress(3) as shown:
        shown.line("Starting ...")
        for later_s in (8.0, 16.0, 30.0):
            now_s[0] = later_s
            shown.step("20 ms")
    assert sys.stderr.getvalue() == wanted
