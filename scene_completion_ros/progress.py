"""How far work is, on stderr while it goes on, and what came of it, on stdout."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from scene_completion_ros.plain_text import printable

Item = TypeVar("Item")
APART_S = 10.0  # between lines about steps, where stderr is no terminal


class Progress:
    """Counts steps: a terminal has one line that changes, a file a line now and then.

    Each clears what another left in that line. `total`: steps in all, 0 if not known; `unit`: what a step is; `done`:
    steps of an earlier run.
    """

    _width = 0  # of the line of the terminal that changes

    def __init__(self, total: int = 0, unit: str = "", done: int = 0) -> None:
        self.total, self._unit, self._done = total, f"{unit} " if unit else "", done
        self._terminal, self._shown_s = sys.stderr.isatty(), time.monotonic()
        self._first: tuple[int, float] | None = None  # step that was counted first, and when

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(printable(text), file=sys.stderr, flush=True)

    info = line

    def warning(self, text: str) -> None:
        """Print a warning."""
        self.line(f"warning: {text}")

    error = warning

    def debug(self, text: str) -> None:
        """Show what is done now, on a terminal alone."""
        if self._terminal:
            self.say(text)

    def step(self, detail: str = "") -> None:
        """Count a step that is done, and show a detail of it."""
        self._done += 1
        first, begun_s = self._first = self._first or (self._done, time.monotonic())
        left = ""
        if first < self._done < self.total:
            step_s = (time.monotonic() - begun_s) / (self._done - first)
            left = f"{duration(step_s * (self.total - self._done))} left"
        self.say(", ".join(filter(None, (detail, left))))

    def say(self, detail: str) -> None:
        """Show what is done now, and how many steps are."""
        if not self._terminal and time.monotonic() - self._shown_s < APART_S:
            return
        self._shown_s = time.monotonic()
        steps = f"[{self._unit}{self._done}{f'/{self.total}' if self.total else ''}] "
        text = steps * bool(self._unit or self._done or self.total) + printable(detail)
        if self._terminal:
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            Progress._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width, end="\r", file=sys.stderr, flush=True)
            Progress._width = 0


class _Forwarder(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage(), lines=True)
        # One line each: rclpy knows a place that logs by its line, and allows it one severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


@contextmanager
def forwarded_log(logger: Any) -> Iterator[None]:
    """Hand what the package logs through `logging`, from its info on, to a logger of rclpy or a `Progress`.

    Of the kernels that are compiled it also hands on every single one, for debugging and terminals.
    """
    source, kernels = (logging.getLogger(f"scene_completion_ros{part}") for part in ("", ".jit"))
    handler, levels = _Forwarder(logger), (source.level, kernels.level)
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    kernels.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        source.setLevel(levels[0])
        kernels.setLevel(levels[1])
        source.removeHandler(handler)


def print_lines(text: str) -> None:
    """Print lines with names of others in them."""
    print(printable(text, lines=True), flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} h"


def watched(items: Iterable[Item], unit: str) -> Iterator[Item]:
    """Yield items, and show how many are done."""
    with Progress(len(items) if isinstance(items, Sized) else 0, unit) as progress:
        for item in items:
            yield item
            progress.step()


def print_summary(rows: Mapping[str, object]) -> None:
    """Print what came of a command, a line each; values that are empty or None are left out."""
    shown = {printable(name): str(value) for name, value in rows.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {printable(value)}")
