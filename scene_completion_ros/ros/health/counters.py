"""What the node received and what became of it, with warnings that do not flood the log."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from scene_completion_ros.errors import in_words
from scene_completion_ros.messages.drop_reasons import DropReason

WARNING_PERIOD_S = 5.0
LONGEST_WARNING = 1000  # characters: what a message holds is quoted in warnings, and may be of any length


@dataclass
class Counts:
    """All counts of one moment."""

    received: int = 0  # images that arrived
    processed: int = 0  # images that were completed and published
    unwanted: int = 0  # images that nobody subscribed to the results of
    dropped: Counter[DropReason] = field(default_factory=Counter)  # messages that came to nothing, by reason
    warned: Counter[str] = field(default_factory=Counter)  # warnings by key, those that were not logged included
    # How often images of the other cameras were completed without that of a camera, by its name.
    missing: Counter[str] = field(default_factory=Counter)


class FrameCounters(Counts):
    """Counts images received, completed, dropped by reason and wanted by nobody; safe to use from several threads."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger
        self._lock = threading.Lock()
        self._last_warning: dict[str, float] = {}
        # Called with the reason and the header of every image dropped, in the thread that drops it.
        self.on_dropped_image: Callable[[DropReason, Any], None] | None = None

    def counts(self) -> Counts:
        """What was counted until now."""
        with self._lock:
            return Counts(**{one.name: copy(getattr(self, one.name)) for one in fields(Counts)})

    def count(self, what: Literal["received", "processed", "unwanted"]) -> None:
        """An image arrived; was completed and published; or nobody subscribed to what it would have become."""
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)

    def drop(self, reason: DropReason, warning: str = "", *, header: Any = None) -> None:
        """Count a message that came to nothing.

        `warning`: what to tell the user, at most every `WARNING_PERIOD_S` for each reason; empty stays silent;
        `header`: header of the message, where it is an image.
        """
        with self._lock:
            self.dropped[reason] += 1
            count = self.dropped[reason]
        if warning:
            self.warn(reason, f"dropped ({reason}, {count} so far): {warning}")
        if header is not None and (on_dropped := self.on_dropped_image) is not None:
            on_dropped(reason, header)

    def drop_after(self, error: Exception, header: Any = None) -> None:
        """Count a message at which nobody thought of an error."""
        self.drop(DropReason.INTERNAL_ERROR, in_words(error), header=header)

    def count_missing(self, camera: str) -> None:
        """Images of other cameras went on without one of this camera."""
        with self._lock:
            self.missing[camera] += 1
            count = self.missing[camera]
        self.warn(f"missing {camera}", f"no image of camera {camera} at the time of the others, {count} so far")

    def warn(self, key: str, text: str) -> None:
        """Log a warning, at most every `WARNING_PERIOD_S` for each key."""
        now = time.monotonic()
        with self._lock:
            self.warned[key] += 1
            if now - self._last_warning.get(key, -WARNING_PERIOD_S) < WARNING_PERIOD_S:
                return
            self._last_warning[key] = now
        shown = text if len(text) <= LONGEST_WARNING else f"{text[:LONGEST_WARNING]} … ({len(text)} characters)"
        self._logger.warning(shown)

    def summary(self) -> str:
        """One line with all counts."""
        with self._lock:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            total = sum(self.dropped.values())
            counts = (
                f"received {self.received} images, processed {self.processed}, dropped {total} ({reasons or 'none'})"
            )
            if self.missing:
                cameras = ", ".join(f"{name} {count} times" for name, count in sorted(self.missing.items()))
                counts = f"{counts}, missing {cameras}"
            return f"{counts}, nobody subscribed to {self.unwanted}" if self.unwanted else counts


PACKAGE = "scene_completion_ros"


class _Forwarder(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # One line each: rclpy knows a place that logs by its line, and allows it one severity.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def forwarded_log(logger: Any) -> AbstractContextManager[None]:
    """Hand what the package logs to an rclpy logger."""
    return package_log(_Forwarder(logger))


@contextmanager
def package_log(handler: logging.Handler) -> Iterator[None]:
    """Hand what the package logs through `logging`, from its info on, to a handler."""
    source = logging.getLogger(PACKAGE)
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.setLevel(level)
        source.removeHandler(handler)
