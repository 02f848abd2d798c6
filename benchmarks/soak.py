"""Whether memory, threads or open files of the running node grow: images for minutes or hours, measured all the time.

``python -m benchmarks.soak --minutes 30`` runs the node in a process of its own, fills its queue of images once,
publishes images at a rate, prints a line a minute and a result, writes all of it as JSON, and ends with status 1 where
something grew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.completion import hardware
from benchmarks.node_load import large_camera, prepare_middleware
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE

if TYPE_CHECKING:  # at run time only once the middleware is configured
    from benchmarks.running_node import RunningNode

LARGEST_GROWTH_MB = 10.0
COMPARED = 0.1  # part of the samples at the beginning and at the end that are compared
WARM_UP = 0.2, 60.0  # caches and memory pools fill in this part of the time, and in no more seconds than this


@dataclass(frozen=True)
class Sample:
    """The node's process at one moment.

    Attributes:
        seconds: Since the beginning.
        resident_mb: Memory, 10^6 bytes.
        own_mb: Of it, what is the process's alone.
        shared_mb: Of it, shared memory.
        open_files: Open descriptors, sockets included.
        results: Results read so far.
    """

    seconds: float
    resident_mb: float
    own_mb: float
    shared_mb: float
    threads: int
    open_files: int
    results: int


@dataclass(frozen=True)
class Soak:
    """What a soak came to.

    Attributes:
        warm_up_s: Seconds at the beginning that do not count.
        received: Images that the node received; the middleware lost the others.
        dropped: Images that came to nothing, by reason.
        load: Load average at the beginning and at the end.
    """

    minutes: float
    rate_hz: float
    warm_up_s: float
    sent: int
    received: int
    completed: int
    dropped: dict[str, int]
    samples: tuple[Sample, ...]
    machine: str = ""
    load: tuple[float, float] = field(default=(0.0, 0.0))

    @property
    def counted(self) -> list[Sample]:
        """Samples after the warm-up."""
        return [sample for sample in self.samples if sample.seconds >= self.warm_up_s]

    def grown(self, what: str) -> float:
        """By how much the median of the last samples is above that of the first ones after the warm-up."""
        values = [float(getattr(sample, what)) for sample in self.counted]
        part = max(1, round(COMPARED * len(values)))
        return float(np.median(values[-part:]) - np.median(values[:part]))

    def slope_mb_an_hour(self) -> float:
        """Of a line through the memory of all samples after the warm-up."""
        hours = [sample.seconds / 3600.0 for sample in self.counted]
        return float(np.polyfit(hours, [sample.resident_mb for sample in self.counted], 1)[0])

    def faults(self, largest_growth_mb: float = LARGEST_GROWTH_MB) -> list[str]:
        """What should not be, in words; empty where all is well."""
        found = []
        memory, threads, files = (self.grown(what) for what in ("resident_mb", "threads", "open_files"))
        if memory >= largest_growth_mb:
            found.append(f"memory grew by {memory:.1f} MB, more than {largest_growth_mb:.1f}")
        if threads > 0:
            found.append(f"{threads:.0f} threads more than at the beginning")
        if files > 0:
            found.append(f"{files:.0f} open files more than at the beginning")
        uncounted = self.received - self.completed - sum(self.dropped.values())
        if uncounted:
            found.append(f"{uncounted} of {self.received} images are not accounted for")
        if not self.completed:
            found.append("no image was completed")
        return found

    def text(self) -> str:
        """The result in a few lines."""
        first, last = self.counted[0], self.counted[-1]
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        return (
            f"{self.minutes:g} minutes at {self.rate_hz:g} Hz: {self.sent} images sent, {self.received} received, "
            f"{self.completed} completed, dropped {dropped}\n"
            f"resident memory {first.resident_mb:.1f} MB after {first.seconds:.0f} s, {last.resident_mb:.1f} MB at the "
            f"end: {self.grown('resident_mb'):+.1f} MB between the medians of the first and the last tenth, "
            f"{self.slope_mb_an_hour():+.1f} MB an hour; of it the process's own {self.grown('own_mb'):+.1f}, "
            f"shared {self.grown('shared_mb'):+.1f}\n"
            f"threads {first.threads} and {last.threads}, open files {first.open_files} and {last.open_files}; "
            f"load {self.load[0]:.1f} at the beginning, {self.load[1]:.1f} at the end"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--rate", type=float, default=30.0, help="images a second")
    parser.add_argument("--compressed", action="store_true", help="JPEG instead of raw images")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    parser.add_argument("--grid", type=Path, help="file of the voxel grid instead of the bundle's")
    parser.add_argument("--threads", type=int, default=0, help="parameter threads of the node; 0 for all")
    parser.add_argument("--largest-growth", type=float, default=LARGEST_GROWTH_MB, help="of memory, MB")
    parser.add_argument("--json", type=Path, help="where to write all measurements")
    given = parser.parse_args(arguments)
    prepare_middleware()
    from benchmarks.running_node import RunningNode

    machine, load = hardware(given.threads or os.cpu_count() or 1), os.getloadavg()[0]
    print(machine, flush=True)
    parameters: dict[str, object] = {"bundle": str(given.bundle), "threads": given.threads}
    if given.grid:
        parameters["grid_file"] = str(given.grid)
    with RunningNode(*large_camera(), compressed=given.compressed, parameters=parameters) as node:
        node.start()
        found = soak(node, given.minutes, given.rate, on_sample=print_every_minute())
    found = Soak(**{**vars(found), "machine": machine, "load": (load, os.getloadavg()[0])})
    print(found.text(), flush=True)
    faults = found.faults(given.largest_growth)
    if given.json:
        grown = {what: found.grown(what) for what in ("resident_mb", "own_mb", "shared_mb", "threads", "open_files")}
        content = {**asdict(found), "grown": grown, "slope_mb_an_hour": found.slope_mb_an_hour(), "faults": faults}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(faults) or "nothing grew", flush=True)
    return 1 if faults else 0


def soak(
    node: RunningNode, minutes: float, rate_hz: float, *, on_sample: Callable[[Sample], None] = lambda _: None
) -> Soak:
    """Publish images to a node that has started, and measure its process."""
    seconds = 60.0 * minutes
    every_s = min(5.0, seconds / 60.0)
    node.fill_queues(rate_hz)
    samples: list[Sample] = []
    received, completed, dropped = node.counts()
    start_s = time.monotonic()

    def measure() -> None:
        now_s = time.monotonic() - start_s
        if samples and now_s < samples[-1].seconds + every_s:
            return
        facts = node.facts()
        samples.append(
            Sample(
                seconds=now_s,
                resident_mb=facts.resident_mb or 0.0,
                own_mb=facts.own_mb or 0.0,
                shared_mb=facts.shared_mb or 0.0,
                threads=facts.threads or 0,
                open_files=facts.open_files or 0,
                results=len(node.clouds),
            )
        )
        on_sample(samples[-1])

    node.run(rate_hz, seconds, each=measure)
    node.settle()
    received_now, completed_now, dropped_now = node.counts()
    part, largest_s = WARM_UP
    return Soak(
        minutes=minutes,
        rate_hz=rate_hz,
        warm_up_s=min(part * seconds, largest_s),
        sent=node.sent,
        received=received_now - received,
        completed=completed_now - completed,
        dropped={name: more for name, count in dropped_now.items() if (more := count - dropped.get(name, 0))},
        samples=tuple(samples),
    )


def print_every_minute() -> Callable[[Sample], None]:
    """Prints a sample a minute."""
    printed_s = -60.0

    def show(sample: Sample) -> None:
        nonlocal printed_s
        if sample.seconds >= printed_s + 60.0:
            printed_s = sample.seconds
            print(
                f"{sample.seconds / 60.0:5.1f} min: {sample.resident_mb:7.1f} MB (own {sample.own_mb:.1f}, "
                f"shared {sample.shared_mb:.1f}), {sample.threads} threads, "
                f"{sample.open_files} open files, {sample.results} results",
                flush=True,
            )

    return show


if __name__ == "__main__":
    sys.exit(main())
