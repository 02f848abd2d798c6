"""Processes that end when the process that started them has died, however it did."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def ending_with_parent() -> Callable[[], None]:
    """What a child does first (`preexec_fn`): listen to SIGINT even in the background, and end with its parent.

    The system sends it SIGTERM; only Linux does.
    """
    # Loaded here: a process that has just been forked loads nothing.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prctl is not None:
            prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    return prepare
