"""Judges what the node recorded: one status a part, whose message includes what to do. Nothing here touches ROS.

Levels are OK, WARN and ERROR. STALE is left to the readers. diagnostic_aggregator sets it itself once messages
cease, and takes a group with one stale part for broken. A node that was deactivated on purpose is not broken.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Generic, Literal, TypeVar

from scene_completion_ros.errors import in_words
from scene_completion_ros.messages.drop_reasons import DropReason, JudgedBy
from scene_completion_ros.plain_text import printable

WARNING_PERIOD_S = 5.0
LONGEST_WARNING = 1000  # characters: what a message holds is quoted in warnings, and may be of any length


@dataclass
class Counts:
    """All counts of one moment."""

    received: int = 0  # images that arrived
    processed: int = 0  # images that were completed and published
    unwanted: int = 0  # images whose results had no subscriber
    dropped: Counter[DropReason] = field(default_factory=Counter)  # messages that came to nothing, by reason
    warned: Counter[str] = field(default_factory=Counter)  # warnings by key, those that were not logged included


class FrameCounters(Counts):
    """Counts images received, completed, dropped by reason and without subscribers; safe for several threads."""

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
        """An image arrived; was completed and published; or its results had no subscriber."""
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)

    def drop(self, reason: DropReason, warning: str = "", *, header: Any = None) -> None:
        """Count a message that came to nothing.

        `warning`: the log line for the user, at most every `WARNING_PERIOD_S` for each reason; empty stays silent;
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
        """Count a message that met an unforeseen error."""
        self.drop(DropReason.INTERNAL_ERROR, in_words(error), header=header)

    def warn(self, key: str, text: str) -> None:
        """Log a warning, at most every `WARNING_PERIOD_S` for each key."""
        now = time.monotonic()
        with self._lock:
            self.warned[key] += 1
            if now - self._last_warning.get(key, -WARNING_PERIOD_S) < WARNING_PERIOD_S:
                return
            self._last_warning[key] = now
        shown = text if len(text) <= LONGEST_WARNING else f"{text[:LONGEST_WARNING]} … ({len(text)} characters)"
        self._logger.warning(printable(shown, lines=True))

    def summary(self) -> str:
        """One line with all counts."""
        with self._lock:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            total = sum(self.dropped.values())
            counts = f"received {self.received} images, processed {self.processed}, dropped {total}"
            unwanted = f", no subscriber for {self.unwanted}" if self.unwanted else ""
            return f"{counts} ({reasons or 'none'}){unwanted}"


class Level(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """How one part of the node is."""

    name: str
    level: Level
    message: str  # one sentence or two: what is so, and what to do about it
    values: Mapping[str, str] = field(default_factory=dict)  # the numbers behind it
    cause: str = ""  # the part of the message that stays the same as long as the fault does; a new one is logged

    def printable(self) -> "Status":
        """The same with escapes for signs that act on a terminal, as names of frames and topics may hold them."""
        values = {printable(key): printable(value, lines=True) for key, value in self.values.items()}
        return replace(self, message=printable(self.message, lines=True), values=values)


@dataclass(frozen=True)
class Event:
    """How often something happened, and why the last time; times are those of `time.perf_counter`."""

    count: int = 0
    why: str = ""
    last_s: float | None = None

    def again(self, why: str) -> "Event":
        """It happened now."""
        return Event(self.count + 1, why, time.perf_counter())

    def recent(self, now_s: float, recent_s: float) -> bool:
        """Whether it happened in the last `recent_s` seconds."""
        return self.last_s is not None and now_s - self.last_s <= recent_s

    def values(self, name: str, now_s: float) -> dict[str, str]:
        """When and why it happened last, under a name; nothing where it never did."""
        return {} if self.last_s is None else {name: f"{now_s - self.last_s:.1f} s ago: {self.why}"}


Report = TypeVar("Report")


class Record(Generic[Report]):
    """What is reported of a part: a frozen dataclass, which several threads write and read."""

    def __init__(self, report: Report) -> None:
        self._lock = threading.Lock()
        self.report = report  # what is so now

    def change(self, **values: Any) -> None:
        """Take over values."""
        with self._lock:
            self.report = replace(self.report, **values)  # type: ignore[type-var]

    def happened(self, event: str, why: str) -> None:
        """The event of this name happened once more."""
        with self._lock:
            self.report = replace(self.report, **{event: getattr(self.report, event).again(why)})  # type: ignore[type-var]


@dataclass(frozen=True)
class Drops:
    """Messages that came to nothing, by reason."""

    total: Mapping[DropReason, int]  # since the node started
    recent: Mapping[DropReason, int]  # in the last seconds
    recent_s: float  # how many seconds these are

    def problems(self, *reasons: DropReason, judged_by: JudgedBy | None = None) -> str:
        """Recent drops for these reasons, or for all that a part reports, in words; empty where there are none."""
        wanted = {*reasons, *(reason for reason in DropReason if reason.judged_by == judged_by)}
        drops = [(count, reason) for reason, count in sorted(self.recent.items()) if reason in wanted and count]
        return ", ".join(f"{count} {reason} ({reason.meaning})" for count, reason in drops)


def lifecycle_status(state: str, problem: str) -> Status:
    """The state of the node, and what kept it from the next one."""
    values = {"state": state}
    if problem:
        return Status("lifecycle", Level.ERROR, f"{state}: the last transition failed: {problem}", values)
    hint = {
        "unconfigured": ": nothing is loaded; configure and activate it (ros2 lifecycle set)",
        "inactive": ": nothing is subscribed; activate it (ros2 lifecycle set)",
    }
    return Status("lifecycle", Level.OK, state + hint.get(state, ""), values)


def idle_status(name: str, state: str) -> Status:
    """A part that has nothing to do in a state in which the node was put on purpose."""
    return Status(name, Level.OK, f"nothing to do: the node is {state}", {"state": state})


def outputs_status(subscribers: Mapping[str, int], warnings: Mapping[str, int], result_age_s: float | None) -> Status:
    """Who listens, and what could not be published.

    `warnings`: how often was warned of something, by key: what was not published is counted under its topic;
    `result_age_s`: seconds since the last result was published; None before the first.
    """
    values = {f"subscribers of {topic}": str(count) for topic, count in subscribers.items()}
    values["seconds since the last result"] = "none yet" if result_age_s is None else f"{result_age_s:.2f}"
    values |= {f"warnings: {key}": str(count) for key, count in sorted(warnings.items())}
    if not any(subscribers.values()):
        message = "no subscribers: images are not completed until ~/voxels or another result has one"
        return Status("outputs", Level.OK, message, values)
    wanted = sum(1 for count in subscribers.values() if count)
    return Status("outputs", Level.OK, f"{wanted} of {len(subscribers)} topics have subscribers", values)
