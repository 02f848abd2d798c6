"""How far a build is: nested phases become one fraction, said now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SAY_EVERY_S = 5.0


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Adds up the phases that TensorRT's builder reports, from any of its threads.

    Args:
        say: Called with the fraction, 0 to 1, and the name of the innermost phase; never less than before, at most
            every few seconds.
        wanted: Asked after every step; where it is false, the build is given up.
        every_s: Seconds between two calls of `say`.
        now_s: The clock.
    """

    def __init__(
        self,
        say: Callable[[float, str], None],
        *,
        wanted: Callable[[], bool] = lambda: True,
        every_s: float = SAY_EVERY_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._wanted = wanted
        self._every_s = every_s
        self._now_s = now_s
        self._said_s = now_s()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; it is a part of the next step of its parent."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done, counted from 0; whether the build is still wanted."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = max(phase.done, min(step + 1, phase.steps))
            self._advance(name)
        return self._wanted()

    def finish(self, name: str) -> None:
        """A phase is over, also where the build failed."""
        with self._lock:
            self._phases.pop(name, None)

    def _advance(self, name: str) -> None:
        roots = [phase for phase in self._phases.items() if phase[1].parent is None]
        self._fraction = max([self._fraction, *(self._fraction_of(*root) for root in roots)])
        if self._now_s() - self._said_s >= self._every_s:
            self._said_s = self._now_s()
            self._say(self._fraction, name)

    def _fraction_of(self, name: str, phase: _Phase) -> float:
        parts = [self._fraction_of(*child) for child in self._phases.items() if child[1].parent == name]
        return min((phase.done + max(parts, default=0.0)) / phase.steps, 1.0)
