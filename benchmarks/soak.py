"""Hours of operation of the running node while much goes wrong: what grows, what is lost, and whether it is named.

``python -m benchmarks.soak --minutes 120 --output DIR`` runs the node in a process of its own and plays the bundled
drive to it in a loop, with poses. Meanwhile cameras come and go, poses jump and are missing, and images are damaged.
Parameters, words and the bundle change, and viewers join and leave. All of `soak_drive.FAULTS` come in a random order,
at least once and as often as the minutes allow. Each has something in /diagnostics that has to appear, and to be gone
afterwards.

It prints a table; DIR gets soak.json with every measurement and every fault. The command ends with status 1 where
memory, threads or open files grew after the warm-up. It does so too where an image that was sent is not accounted for,
or where a fault was not named or not forgotten.
"""

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.measuring import hardware
from benchmarks.soak_drive import FAULTS, VOCABULARY, Drive, Fault
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle

LARGEST_GROWTH = {"own MB": 10.0, "threads": 1.0, "open files": 1.0}
WARM_UP = 0.2, 15.0  # caches and memory pools fill in this part of the time, and in no more minutes than this
EVERY_S = 5.0  # a measurement
PAUSE_S = 1.0, 6.0  # between faults
NAMED_S, FORGOTTEN_S = 60.0, 90.0  # in which the diagnostics have to name a fault, and to forget it


@dataclass(frozen=True)
class Event:
    """A fault, and what the diagnostics had of it."""

    minute: float
    name: str
    expected: str  # what had to appear
    named_s: float | None  # seconds until it did; None where it did not
    forgotten_s: float | None  # seconds until it was gone once all was well again; None where it was not


@dataclass
class Record:
    """All that a soak came to."""

    minutes: float
    # The node's process at many moments: minute, own memory in 10^6 bytes, threads and open files.
    samples: list[dict[str, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: int = 0  # images that were published
    received: int = 0
    completed: int = 0
    # Images that came to nothing, by reason; those that nobody subscribed to among them.
    dropped: dict[str, int] = field(default_factory=dict)
    error: str = ""  # what ended it before its time, in words

    @property
    def warm_up(self) -> float:
        """Minutes at the beginning that do not count."""
        return min(WARM_UP[0] * self.minutes, WARM_UP[1])

    def counted(self, what: str) -> list[float]:
        """Values of the samples after the warm-up."""
        return [sample[what] for sample in self.samples if sample["minute"] >= self.warm_up]

    def grown(self, what: str) -> float:
        """By how much something grew from the warm-up to the end: Theil and Sen's slope times that duration."""
        minutes = self.counted("minute")
        return slope(minutes, self.counted(what)) * (minutes[-1] - minutes[0])

    def faults(self) -> list[str]:
        """What should not be, in words; empty where all is well."""
        found = [self.error] if self.error else []
        if len(self.counted("minute")) < 3:
            return [*found, "too few measurements"]
        for what, largest in LARGEST_GROWTH.items():
            if (grown := self.grown(what)) >= largest:
                found.append(f"{what} grew by {grown:.1f}, which is not below {largest:.1f}")
        if self.sent != self.received:
            found.append(f"{self.sent - self.received} of {self.sent} images did not reach the node")
        if uncounted := self.received - self.completed - sum(self.dropped.values()):
            found.append(f"{uncounted} of {self.received} images are not accounted for")
        if not self.completed:
            found.append("no image was completed")
        for event in self.events:
            if event.named_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: nobody named {event.expected}")
            elif event.forgotten_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: not forgotten: {event.expected}")
        return found

    def text(self) -> str:
        """The table of faults, what grew, and the verdict, as Markdown."""
        rows = []
        for name in sorted({event.name for event in self.events}):
            of_name = [event for event in self.events if event.name == name]
            longest = (max(getattr(one, what) or 0.0 for one in of_name) for what in ("named_s", "forgotten_s"))
            rows.append((name, str(len(of_name)), of_name[0].expected, *(f"{seconds:.1f}" for seconds in longest)))
        header = ("what happened", "times", "expected", "named after s, at most", "forgotten after s, at most")
        parts = [table(header, rows)]
        if len(own := self.counted("own MB")) >= 3:
            parts.append(
                f"After {self.warm_up:.1f} minutes the node's own memory grew by {self.grown('own MB'):+.1f} MB "
                f"(from {own[0]:.1f} to {own[-1]:.1f}, largest less smallest: {max(own) - min(own):.1f}), threads by "
                f"{self.grown('threads'):+.1f}, open files by {self.grown('open files'):+.1f}."
            )
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        parts.append(
            f"{self.sent} images sent, {self.received} received, {self.completed} completed; the others: {dropped}."
        )
        return "\n\n".join([*parts, "\n".join(self.faults()) or "Nothing grew, nothing was lost, all was named."])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs of points; 0 where there is no pair."""
    first, second = np.triu_indices(len(x), 1)
    run = np.asarray(x)[second] - np.asarray(x)[first]
    rise = np.asarray(y)[second] - np.asarray(y)[first]
    return float(np.median(rise[run > 0] / run[run > 0])) if (run > 0).any() else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle, of which a copy changes")
    parser.add_argument("--threads", type=int, default=0, help="parameter threads of the node; 0 for all")
    given = parser.parse_args(arguments)
    bundle = given.output / "student"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(given.bundle, bundle)
    faults = dict(FAULTS)
    if StudentBundle.load(bundle).text_bank() is not None:
        faults["the vocabulary changes"] = VOCABULARY
    print(hardware(given.threads or os.cpu_count() or 1) + "\n", flush=True)
    record, chance = Record(given.minutes), random.Random(given.seed)
    try:
        with Drive(bundle, given.rate, {"threads": given.threads}) as drive:
            Soak(drive, record).run(faults, chance)
    except (Exception, KeyboardInterrupt) as error:  # whatever ended it, what was measured is printed
        record.error = f"it ended early: {type(error).__name__} {error}".strip()
    (given.output / "soak.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    print(record.text(), flush=True)
    return 1 if record.faults() else 0


class Soak:
    """Plays, breaks things, and measures."""

    def __init__(self, drive: Drive, record: Record) -> None:
        self._drive, self._record = drive, record
        self._start_s = self._next_s = 0.0
        self._exchanging = False

    @property
    def _minute(self) -> float:
        return (time.monotonic() - self._start_s) / 60.0

    def run(self, faults: Mapping[str, Fault], chance: random.Random) -> None:
        """All of it; the record is filled meanwhile."""
        drive = self._drive
        drive.start()
        # What fills once is full before anything counts.
        drive.fill_queues()
        drive.on_turn, drive.playing = self._measure, True
        self._start_s = time.monotonic()
        while self._minute < self._record.minutes or not self._record.events:
            for name in chance.sample(sorted(faults), len(faults)):
                drive.spin(chance.uniform(*PAUSE_S))
                self._record.events.append(self._happen(name, faults[name]))
        drive.rest()
        self._record.sent = drive.sent
        self._record.received, self._record.completed, self._record.dropped = drive.counts()

    def _happen(self, name: str, fault: Fault) -> Event:
        drive, minute = self._drive, self._minute
        drive.until(lambda: fault.signal(drive) is not None, NAMED_S)
        before = fault.signal(drive)
        self._exchanging = fault.exchanges
        began_s = time.monotonic()
        fault.begin(drive)
        named = drive.until(lambda: fault.signal(drive) not in (None, before), NAMED_S)
        named_s = time.monotonic() - began_s
        fault.end(drive)
        began_s = time.monotonic()
        forgotten = drive.until(lambda: fault.over(drive) if fault.over else fault.signal(drive) == before, FORGOTTEN_S)
        forgotten_s = time.monotonic() - began_s
        self._exchanging = False
        return Event(minute, name, fault.expected, named_s if named else None, forgotten_s if forgotten else None)

    def _measure(self) -> None:
        """Every few seconds, while a student is loaded."""
        if time.monotonic() < self._next_s or self._exchanging:
            return
        self._next_s = time.monotonic() + EVERY_S
        facts = self._drive.facts()
        values = {name: facts.get(name, 0.0) for name in LARGEST_GROWTH}
        self._record.samples.append({"minute": self._minute, **values})


if __name__ == "__main__":
    sys.exit(main())
