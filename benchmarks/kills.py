"""Whether anything is lost, or read half written, where the process that writes it is killed at a random moment.

``python -m benchmarks.kills --times 200`` starts what writes files, kills it with SIGKILL, and reads what lies there
with the package's own readers:

- a file that was finished before the kill is still there, and whole, or replaced by a later one that is whole;
- what has its final name is whole;
- the next process, which begins in the folder that the killed one has left, succeeds, and removes what was unfinished.

The processes do little else than write, and each is killed at a moment uniform over the measured duration. It prints a
Markdown table, and ends with status 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from benchmarks.measuring import hardware, table
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle

WARM_UPS = 2  # processes that are left alone at first: one fills caches, one is measured
LEFT_ALONE = 8  # every so many processes one is left alone: it has to do well
SECOND_NS = 1_000_000_000
RESULTS, BUNDLES, MESSAGES = 16, 4, 1000  # of one process
KINDS = ".npz", ".ply"  # the first appears last

Finish: TypeAlias = "Callable[[str], None]"
"""Notes that something is finished: it must be there from then on."""


@dataclass(frozen=True)
class Victim:
    """Something that writes files and is killed.

    Attributes:
        work: Called in the process that is killed, with the folder to write to and a number that grows with every
            process.
        check: Called after each kill with that folder and all that was finished since it was empty. It raises
            `DamageError`, or what the package's readers raise.
    """

    work: Callable[[Path, int, Finish], None]
    check: Callable[[Path, Sequence[str]], None]


class DamageError(Exception):
    """Something that had been finished is gone, or has its final name and is not whole."""


@dataclass
class Tally:
    """What became of the kills of one victim: `in_write` left an unfinished file, `faults` should not be."""

    duration_s: float = 0.0
    kills: int = 0
    in_write: int = 0
    finished: int = 0
    faults: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kills, prints the table, and returns 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=200, help="kills, of all victims together")
    given = parser.parse_args(arguments)
    print(hardware(1), flush=True)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, victim) in enumerate(VICTIMS.items()):
            times = given.times // len(VICTIMS) + (number < given.times % len(VICTIMS))
            tallies[name] = kill(victim, Path(folder) / name, times, random.Random(number))
    rows = [
        (name, f"{tally.duration_s:.1f}", *map(str, (tally.kills, tally.in_write, tally.finished)))
        for name, tally in tallies.items()
    ]
    header = ("what is killed", "s a run", "kills", "that left an unfinished file", "finished")
    print("\n" + table(header, rows))
    faults = [f"{name}: {fault}" for name, tally in tallies.items() for fault in tally.faults]
    print("\n" + ("\n".join(faults) or "nothing was lost, and nothing half written was read"), flush=True)
    return 1 if faults else 0


def kill(victim: Victim, folder: Path, times: int, chance: random.Random) -> Tally:
    """Kill the processes of a victim in a folder of its own until something is wrong, or so many times."""
    tally, output, journal = Tally(), folder / "output", folder / "finished.txt"
    output.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    number, alone, earlier = 0, True, 0
    while not tally.faults and (tally.kills < times or alone):
        process = context.Process(target=run_victim, args=(victim, output, number, journal))
        began_s = time.monotonic()
        process.start()
        number += 1
        process.join(None if alone else chance.uniform(0.0, tally.duration_s))
        if alone:
            tally.duration_s = time.monotonic() - began_s
        process.kill()
        process.join()
        finished = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        tally.finished += len(finished) - earlier
        earlier = len(finished)
        unfinished = list(output.rglob("*.part"))
        try:
            victim.check(output, finished)
        except (DamageError, SceneCompletionError) as error:
            tally.faults.append(f"{type(error).__name__}: {error}")
        if process.exitcode == -signal.SIGKILL:
            tally.kills += 1
            tally.in_write += bool(unfinished)
        elif process.exitcode:
            tally.faults.append(f"process {number} ended by itself with status {process.exitcode}")
        else:
            tally.faults += [f"{file.name} is left after a whole run" for file in unfinished]
            shutil.rmtree(folder)
            output.mkdir(parents=True)
            earlier = 0
        alone = number < WARM_UPS or (not alone and (tally.kills == times or number % LEFT_ALONE == 0))
    return tally


def run_victim(victim: Victim, output: Path, number: int, journal: Path) -> None:
    """What the process does; a line of the journal is out before the next word is finished."""
    with journal.open("a", buffering=1, encoding="utf-8") as lines:
        victim.work(output, number, lambda word: print(word, file=lines))


def save(output: Path, number: int, finish: Finish) -> None:
    """Save pairs of files one after the other, as the node does when it is asked to."""
    from scene_completion_ros.ros.publish.saving import write_together

    for index in range(RESULTS):
        name = f"voxels_{number}_{index:09d}"
        write_together(output, {f"{name}{kind}": content(name + kind) for kind in KINDS})
        finish(name)


def check_saved(output: Path, finished: Sequence[str]) -> None:
    """Every file is whole; every pair that was finished is there, and the second file of every first one."""
    for file in output.glob("[!.]*.*"):
        if file.read_bytes() != content(file.name):
            raise DamageError(f"{file.name} is not what was written")
    for name in (*finished, *(file.stem for file in output.glob(f"[!.]*{KINDS[0]}"))):
        if missing := [kind for kind in KINDS if not (output / f"{name}{kind}").exists()]:
            raise DamageError(f"{name} is gone, with {', '.join(missing)}")


def save_bundle(output: Path, number: int, finish: Finish) -> None:
    """Replace the student in a folder by others, as `export` and `calibrate` do."""
    bundle = load_default_bundle()
    for index in range(BUNDLES):
        renamed = replace(bundle, name=f"{number} {index}")
        renamed.save(output / "student", bundle.read_encoder(), bundle.load_weights())
        finish(renamed.name)


def check_bundle(output: Path, finished: Sequence[str]) -> None:
    """The bundle is whole with all its files, and no older than the last one that was finished."""
    if not finished and not (output / "student").exists():
        return
    bundle = StudentBundle.load(output / "student")
    bundle.read_encoder()
    bundle.load_weights()
    if finished and [*map(int, bundle.name.split())] < [*map(int, finished[-1].split())]:
        raise DamageError(f"student {finished[-1]} was finished, but there is {bundle.name}")


def record(output: Path, number: int, finish: Finish) -> None:
    """Record text with its hash."""
    with BagWriter(output / f"bag_{number}") as writer:
        text = writer.typestore.types["std_msgs/msg/String"]
        for index in range(MESSAGES):
            writer.write("/text", "std_msgs/msg/String", text(data=message(index)), SECOND_NS + index)
            if index % 50 == 49:
                finish(f"bag_{number} {index}")


def content(name: str, size: int = 2**20) -> bytes:
    """Bytes that nothing else is equal to."""
    return hashlib.shake_128(name.encode()).digest(size)


def message(index: int) -> str:
    """20 kB of text."""
    return content(str(index), 10_000).hex()


def check_recorded(output: Path, finished: Sequence[str]) -> None:
    """All messages that were written are there, each as it was written, and in order."""
    newest = dict(one.split() for one in finished)
    for folder in output.iterdir():
        try:
            with BagReader(folder) as reader:
                texts = [one.message.data for one in reader.messages()]
        except BagError:
            if folder.name in newest:
                raise
            continue  # killed before anything was written: it is refused, not read
        if texts != [message(index) for index in range(len(texts))]:
            raise DamageError(f"{folder.name} holds other messages than were written")
        if len(texts) <= int(newest.get(folder.name, -1)):
            raise DamageError(f"message {newest[folder.name]} was written, {folder.name} has {len(texts)}")
    if missing := [name for name in newest if not (output / name).exists()]:
        raise DamageError(f"{', '.join(missing)} is gone")


VICTIMS = {
    "save": Victim(save, check_saved),
    "bundle": Victim(save_bundle, check_bundle),
    "record": Victim(record, check_recorded),
}
"""By name: what `~/save` calls, what writes a student's folder, the bag writer. Each writes in a way of its own."""

if __name__ == "__main__":
    from benchmarks import kills  # as the processes know it

    __spec__ = None  # type: ignore[assignment]  # or each of them says that it imports this twice

    sys.exit(kills.main())
