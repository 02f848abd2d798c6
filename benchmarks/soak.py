"""Hours of operation of the running node while much goes wrong: what grows, what is lost, and whether it is named.

``python -m benchmarks.soak --minutes 120 --output DIR`` runs the node in a process of its own and plays the bundled
drive to it in a loop, with poses. Meanwhile cameras come and go, poses jump and are missing, and images are damaged.
Parameters, words and the bundle change, and viewers join and leave. All of `soak_drive.FAULTS` come in a random order,
again and again. Each has something in /diagnostics that has to appear, and to be gone afterwards.

DIR gets soak.jsonl (every measurement and every fault), soak.md (tables, also of a run that was interrupted) and
memory.png. It ends with status 1 where memory, threads or open files grew after the warm-up. It does so too where an
image that was sent is not accounted for, or where a fault was not named or not forgotten.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.completion import hardware, table
from benchmarks.node_load import prepare_middleware
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle

if TYPE_CHECKING:  # at run time only once the middleware is configured
    from benchmarks.soak_drive import Drive

LARGEST_GROWTH_MB = 10.0
WARM_UP = 0.2, 15.0  # caches and memory pools fill in this part of the time, and in no more minutes than this
EVERY_S = 5.0  # a measurement
PAUSE_S = 1.0, 6.0  # between faults
TOLD_S, OVER_S = 60.0, 90.0  # in which the diagnostics have to name a fault, and to forget it
DOMAINS = 90, 101  # not those of the tests, which may run meanwhile; their ports lie below those that Linux gives away


@dataclass(frozen=True)
class Sample:
    """The node's process at one moment.

    Attributes:
        minute: Since the beginning.
        own_mb: Memory that nobody else has (private pages), 10^6 bytes.
        shared_out_mb: Own memory and the node's share of what it shares with others (PSS).
        open_files: Open descriptors, sockets included.
        sent: Images that were published so far.
        received: Images that the node says it received.
        completed: Images that it says it completed.
        students: How many are loaded; 0 while they are exchanged. A second one takes memory and threads of its own.
    """

    minute: float
    own_mb: float
    shared_out_mb: float
    threads: int
    open_files: int
    sent: int
    received: int
    completed: int
    students: int = 1


@dataclass(frozen=True)
class Event:
    """A fault, and what the diagnostics said of it.

    Attributes:
        expected: What had to appear.
        told_s: Seconds until it did; None where it did not.
        over_s: Seconds until it was gone once all was well again; None where it was not.
    """

    minute: float
    name: str
    expected: str
    told_s: float | None
    over_s: float | None


@dataclass
class Record:
    """All that a soak came to.

    Attributes:
        sent: Images that were published.
        dropped: Images that came to nothing, by reason; those that nobody subscribed to among them.
        error: What ended it before its time, in words.
    """

    minutes: float
    machine: str = ""
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    completed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def warm_up(self) -> float:
        """Minutes at the beginning that do not count."""
        part, largest = WARM_UP
        return min(part * self.minutes, largest)

    @property
    def counted(self) -> list[Sample]:
        """Samples after the warm-up."""
        return [sample for sample in self.samples if sample.minute >= self.warm_up]

    def grown(self, what: str) -> float:
        """By how much something grew from the warm-up to the end: Theil and Sen's slope times that duration.

        Times with one student are compared with each other, and so are those with two.
        """
        counted = self.counted
        minutes, students = [one.minute for one in counted], [one.students for one in counted]
        values = [float(getattr(one, what)) if one.students else math.nan for one in counted]
        return slope(minutes, values, students) * (minutes[-1] - minutes[0])

    def faults(self, largest_growth_mb: float = LARGEST_GROWTH_MB) -> list[str]:
        """What should not be, in words; empty where all is well."""
        found = [self.error] if self.error else []
        if len(self.counted) < 3:
            return [*found, "too few measurements"]
        if (memory := self.grown("own_mb")) >= largest_growth_mb:
            found.append(f"memory grew by {memory:.1f} MB, more than {largest_growth_mb:.1f}")
        found += [
            f"{grown:.1f} {what.replace('_', ' ')} more than after the warm-up"
            for what in ("threads", "open_files")
            if (grown := self.grown(what)) >= 1.0
        ]
        if self.sent != self.received:
            found.append(f"{self.sent - self.received} of {self.sent} images did not reach the node")
        if uncounted := self.received - self.completed - sum(self.dropped.values()):
            found.append(f"{uncounted} of {self.received} images are not accounted for")
        if not self.completed:
            found.append("no image was completed")
        for event in self.events:
            if event.told_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: nobody said {event.expected}")
            elif event.over_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: not forgotten: {event.expected}")
        return found

    def text(self, largest_growth_mb: float = LARGEST_GROWTH_MB) -> str:
        """Tables and the verdict, as Markdown."""
        parts = [self.machine, self._minutes(), self._events()]
        if len(self.counted) >= 3:
            own = [sample.own_mb for sample in self.counted]
            parts.append(
                f"After {self.warm_up:.1f} minutes the node's own memory grew by {self.grown('own_mb'):+.1f} MB "
                f"(largest less smallest: {max(own) - min(own):.1f}), threads by {self.grown('threads'):+.1f}, open "
                f"files by {self.grown('open_files'):+.1f}."
            )
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        parts.append(
            f"{self.sent} images sent, {self.received} received, {self.completed} completed; the others: {dropped}."
        )
        parts.append("\n".join(self.faults(largest_growth_mb)) or "Nothing grew, nothing was lost, all was named.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def _minutes(self) -> str:
        names = ("own MB", "PSS MB", "threads", "open files", "sent", "received", "completed")
        rows = []
        for minute in range(int(self.samples[-1].minute) + 1 if self.samples else 0):
            of_minute = [asdict(one) for one in self.samples if int(one.minute) == minute]
            if of_minute:
                middle = [np.median([one[name] for one in of_minute]) for name in list(of_minute[0])[1:5]]
                last = [of_minute[-1][name] for name in ("sent", "received", "completed")]
                cells = (*(f"{value:.1f}" for value in middle[:2]), *(f"{value:.0f}" for value in (*middle[2:], *last)))
                rows.append((str(minute), *cells))
        return table(("minute (medians)", *names), rows)

    def _events(self) -> str:
        rows = []
        for name in sorted({event.name for event in self.events}):
            of_name = [event for event in self.events if event.name == name]
            rows.append((name, str(len(of_name)), of_name[0].expected, *(_worst(of_name, w) for w in ("told", "over"))))
        return table(
            ("what happened", "times", "expected", "named after s, at most", "forgotten after s, at most"), rows
        )


def _worst(events: Iterable[Event], what: str) -> str:
    """The longest time, or how often it did not happen at all."""
    times = [getattr(event, f"{what}_s") for event in events]
    never = times.count(None)
    return f"**never, {never} times**" if never else f"{max(times):.1f}"


def slope(x: Sequence[float], y: Sequence[float], groups: Sequence[int] | None = None) -> float:
    """Theil and Sen's: the median of the slopes between all pairs of points of a group; 0 where there is no pair.

    Args:
        y: Points where this is NaN are left out.
        groups: Of each point; all are one group if left out.
    """
    first, second = np.triu_indices(len(x), 1)
    run = np.asarray(x)[second] - np.asarray(x)[first]
    rise = np.asarray(y)[second] - np.asarray(y)[first]
    group = np.zeros(len(x), int) if groups is None else np.asarray(groups)
    counts = (run > 0) & np.isfinite(rise) & (group[first] == group[second])
    return float(np.median(rise[counts] / run[counts])) if counts.any() else 0.0


def memory_mb(folder: Path) -> tuple[float, float]:
    """Private memory and PSS of a process, 10^6 bytes, from the file smaps_rollup of its folder in /proc."""
    lines = (folder / "smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    entries = {name: int(value.split()[0]) * 1024 / 1e6 for name, value in (line.split(":", 1) for line in lines)}
    return entries["Private_Clean"] + entries["Private_Dirty"], entries["Pss"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle, of which a copy changes")
    parser.add_argument("--grid", type=Path, help="file of the voxel grid instead of the bundle's")
    parser.add_argument("--threads", type=int, default=0, help="parameter threads of the node; 0 for all")
    parser.add_argument("--faults", default="", help="names with commas between them; all by default, or none")
    parser.add_argument("--largest-growth", type=float, default=LARGEST_GROWTH_MB, help="of memory, MB")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    prepare_middleware()
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(*DOMAINS)))
    from benchmarks.soak_drive import FAULTS, VOCABULARY, Drive

    bundle, second = given.output / "student", given.output / "second_student"
    for folder in (bundle, second):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(given.bundle, folder)
    faults = dict(FAULTS)
    if StudentBundle.load(bundle).text_bank() is not None:
        faults["the vocabulary changes"] = VOCABULARY
    if given.faults:
        wanted = [] if given.faults == "none" else given.faults.split(",")
        if unknown := set(wanted) - set(faults):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(faults)}")
        faults = {name: faults[name] for name in wanted}
    parameters: dict[str, object] = {"threads": given.threads, "shadow_bundle": str(second)}
    if given.grid:
        parameters["grid_file"] = str(given.grid)
    record = Record(given.minutes, hardware(given.threads or os.cpu_count() or 1))
    chance = random.Random(given.seed)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            (given.output / "soak.jsonl").open("w", encoding="utf-8") as journal,
            Drive(bundle, given.rate, parameters, chance) as drive,
        ):
            Soak(drive, record, journal).run(faults, chance)
    except (Exception, KeyboardInterrupt) as error:  # whatever ended it, what was measured is told
        record.error = f"it ended early: {type(error).__name__} {error}".strip()
    finally:
        signal.signal(signal.SIGTERM, former)
        (given.output / "soak.md").write_text(record.text(given.largest_growth), encoding="utf-8")
    draw(record, given.output / "memory.png")
    print(record.text(given.largest_growth), flush=True)
    return 1 if record.faults(given.largest_growth) else 0


class Soak:
    """Plays, breaks things, and measures.

    Args:
        journal: Gets a line of JSON for every measurement and every fault.
    """

    def __init__(self, drive: Drive, record: Record, journal: Any) -> None:
        self._drive, self._record, self._journal = drive, record, journal
        self._start_s = self._next_s = 0.0
        self._students = 1
        self._before = (0, 0, {})  # type: tuple[int, int, dict[str, int]]

    @property
    def _minute(self) -> float:
        return (time.monotonic() - self._start_s) / 60.0

    def run(self, faults: dict[str, Any], chance: random.Random) -> None:
        """All of it; the record is filled meanwhile."""
        drive = self._drive
        drive.start()
        if "two students change places" in faults:  # both students are loaded before anything counts
            drive.swap()
            drive.swap()
            self._students = 2
        drive.fill_queues(10.0)
        self._before = drive.counts()
        drive.on_turn, drive.playing = self._measure, True
        self._start_s = time.monotonic()
        order: list[str] = []
        while self._minute < self._record.minutes:
            drive.spin(chance.uniform(*PAUSE_S))
            if faults and not order:
                order = chance.sample(sorted(faults), len(faults))
            if order:
                self._happen(order.pop(), faults)
        drive.rest()
        self._count()

    def _happen(self, name: str, faults: dict[str, Any]) -> None:
        drive, fault = self._drive, faults[name]
        minute, before = self._minute, fault.before(drive)
        began_s = time.monotonic()
        self._students = 0 if fault.students else self._students
        fault.begin(drive)
        told = drive.until(lambda: fault.told(drive, before), TOLD_S)
        told_s = time.monotonic() - began_s
        fault.end(drive)
        began_s = time.monotonic()
        over = drive.until(lambda: fault.over(drive), OVER_S)
        over_s = time.monotonic() - began_s
        self._students = fault.students or self._students
        event = Event(minute, name, fault.expected, told_s if told else None, over_s if over else None)
        self._record.events.append(event)
        self._write(event)

    def _measure(self) -> None:
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EVERY_S
        facts, (own_mb, pss_mb) = self._drive.facts(), memory_mb(self._drive.process_folder)
        self._count()
        record = self._record
        sample = Sample(
            self._minute,
            own_mb,
            pss_mb,
            facts.threads or 0,
            facts.open_files or 0,
            record.sent,
            record.received,
            record.completed,
            self._students,
        )
        record.samples.append(sample)
        self._write(sample)

    def _count(self) -> None:
        """By the newest diagnostics, which are a second old at most; in some states of the node they do not tell."""
        arrived, inference = self._drive.values("input"), self._drive.values("inference")
        if "images received" not in arrived or "images completed" not in inference:
            return
        record, (received, completed, dropped) = self._record, self._drive.counts()
        record.sent = self._drive.sent
        record.received, record.completed = received - self._before[0], completed - self._before[1]
        before = self._before[2]
        record.dropped = {name: more for name, count in dropped.items() if (more := count - before.get(name, 0))}

    def _write(self, what: Sample | Event) -> None:
        self._journal.write(json.dumps({"kind": type(what).__name__.lower(), **asdict(what)}) + "\n")
        self._journal.flush()


def draw(record: Record, path: Path) -> None:
    """Memory over time, with a tick for each fault."""
    from scene_completion_ros.report.axes import COLOURS, PALE, Axes, blank, legend
    from scene_completion_ros.report.pictures import write_picture

    if len(record.samples) < 2:
        return
    values = [value for one in record.samples for value in (one.own_mb, one.shared_out_mb)]
    low, high = min(values) - 10.0, max(values) + 10.0
    last = record.samples[-1].minute
    picture = blank(420, 960)
    axes = Axes(picture, 70, 40, 860, 300, (0.0, last), (low, high))
    for event in record.events:
        axes.line([(event.minute, low), (event.minute, low + 0.04 * (high - low))], PALE)
    axes.line([(record.warm_up, low), (record.warm_up, high)], PALE)
    axes.line([(one.minute, one.own_mb) for one in record.samples], COLOURS[0])
    axes.line([(one.minute, one.shared_out_mb) for one in record.samples], COLOURS[1])
    step = 10.0 ** np.floor(np.log10(last)) if last >= 1.0 else 0.1
    axes.draw(
        "memory of the node", "minutes", "MB", x_step=float(step), y_step=max(10.0, round((high - low) / 60) * 10.0)
    )
    legend(picture, [("own", COLOURS[0]), ("PSS; ticks below: faults", COLOURS[1])], (80, 400))
    write_picture(path, picture)


if __name__ == "__main__":
    sys.exit(main())
