"""Whether anything is lost, or read half written, where the process that writes it is killed at a random moment.

``python -m benchmarks.kills --times 200`` starts what writes files, kills its process group with SIGKILL, and then
reads what lies there with the package's own readers:

- a file that was finished before the kill is still there, and whole, or replaced by a later one that is whole;
- what has its final name is whole;
- the next process, which begins in the folder that the killed one has left, succeeds, and removes what was unfinished.

Every second kill comes at a moment uniform over the measured duration. The others come while something is being
written: some time after an unfinished file has appeared. It prints a Markdown table, and ends with status 1 where
anything was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numba

from benchmarks.completion import demo_drive, hardware, table
from benchmarks.node_load import near_grid, write_grid
from scene_completion_ros import cli
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from scene_completion_ros.report.pictures import write_picture
from scene_completion_ros.voxels.files import read_npz

LONGEST_S = 600.0
POLL_S = 0.0003
AFTER_S = 0.0, 0.001, 0.004, 0.016, 0.064  # after an unfinished file was seen, at most
WARM_UPS = 2  # processes that are left alone at first: one fills caches, one is measured
LEFT_ALONE = 8  # every so many processes one is left alone: it has to do well
LOG = 600  # characters
PART = ".part"
SECOND_NS = 1_000_000_000
RESULTS, OCCUPIED, MESSAGES = 8, 10_000, 1000  # of one process
FRAMES, STEPS, CHECKPOINT_EVERY = 4, 16, 2
VERTEX_BYTES, TRIANGLE_BYTES = 15, 13
PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Job:
    """What a process that is killed works on.

    Attributes:
        inputs: Folder of what was prepared.
        output: Folder to write to.
        number: Differs in every process, and grows.
        tell: Tells the parent that something was finished: it must be there from then on.
    """

    inputs: Path
    output: Path
    number: int
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Victim:
    """Something that writes files and is killed.

    Attributes:
        work: Called in the process that is killed.
        check: Called after each kill with the folder of the outputs and all that was told since it was empty. It raises
            `LostError` or `HalfWrittenError`, or what the package's readers raise.
        prepare: Makes the inputs, once.
        imports: Modules that processes have from their birth.
    """

    work: Callable[[Job], None]
    check: Callable[[Path, Sequence[str]], None]
    prepare: Callable[[Path], None] = lambda _: None
    imports: tuple[str, ...] = ()


class LostError(Exception):
    """Something that had been finished is gone."""


class HalfWrittenError(Exception):
    """Something has its final name and is not whole."""


@dataclass
class Tally:
    """What became of the kills of one victim.

    Attributes:
        duration_s: Of the last process that was left alone.
        kills: Processes that were killed before they ended.
        aimed: Of them, those that were killed some time after an unfinished file had appeared.
        in_write: Of all, those that left an unfinished file.
        finished: Things that were told to be finished.
        lost: What was finished and is gone, in words.
        half_written: What was read and is not whole, in words.
        failed: What the processes said that were left alone and failed nevertheless.
        left_over: Unfinished files that such a process did not remove.
    """

    duration_s: float = 0.0
    kills: int = 0
    aimed: int = 0
    in_write: int = 0
    finished: int = 0
    lost: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All that should not be."""
        return [*self.lost, *self.half_written, *self.failed, *self.left_over]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kills, prints the table, and returns 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=200, help="kills, of all victims together")
    parser.add_argument("--what", default=",".join(VICTIMS), help="victims, with commas between them")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    given = parser.parse_args(arguments)
    names = [name for name in given.what.split(",") if name]
    if unknown := set(names) - set(VICTIMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(VICTIMS)}")
    print(hardware(1), flush=True)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for number, name in enumerate(names):
            times = given.times // len(names) + (number < given.times % len(names))
            tallies[name] = kill(VICTIMS[name], Path(folder) / name, times, random.Random(given.seed + number))
            if given.json:
                content = {name: asdict(tally) for name, tally in tallies.items()}
                given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n" + tally_table(tallies))
    faults = [f"{name}: {fault}" for name, tally in tallies.items() for fault in tally.faults]
    print("\n" + ("\n".join(faults) or "nothing was lost, and nothing half written was read"), flush=True)
    return 1 if faults else 0


def kill(victim: Victim, folder: Path, times: int, chance: random.Random) -> Tally:
    """Kill the processes of a victim.

    Args:
        folder: Where to work; made anew.
    """
    tally = Tally()
    inputs, output = folder / "inputs", folder / "output"
    for made in (inputs, output):
        made.mkdir(parents=True)
    victim.prepare(inputs)
    told: list[str] = []
    number, alone, writes = 0, True, False
    while tally.kills < times or alone:
        process, heard = start(victim, inputs, output, number)
        began_s = time.monotonic()
        number += 1
        if alone:
            writes |= watch(process, output)
            tally.duration_s = time.monotonic() - began_s
        else:
            aimed = bool(tally.kills % 2) and writes
            wait_for_moment(process, output, chance, tally.duration_s, aimed=aimed)
            end(process)
        told += (fresh := said(heard))
        tally.finished += len(fresh)
        unfinished = unfinished_files(output)
        judge(victim, output, told, tally)
        if process.exitcode == -signal.SIGKILL:
            tally.kills += 1
            tally.aimed += aimed
            tally.in_write += bool(unfinished)
        elif process.exitcode:
            log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
            tally.failed.append(f"process {number} ended by itself with status {process.exitcode}: {log[-LOG:]}")
        else:
            tally.left_over += [f"{file.name} is left after a whole run" for file in unfinished]
            shutil.rmtree(output)
            output.mkdir()
            told.clear()
        if tally.faults:
            return tally
        alone = number < WARM_UPS or (not alone and (tally.kills == times or number % LEFT_ALONE == 0))
    return tally


def start(victim: Victim, inputs: Path, output: Path, number: int) -> tuple[ForkServerProcess, Connection]:
    """Start a process of a victim in a group of its own; the connection on which it tells what it finished."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *victim.imports])  # the first one's count
    heard, tells = context.Pipe(duplex=False)
    process = context.Process(target=run_victim, args=(victim.work, inputs, output, number, tells))
    process.start()
    tells.close()
    heard.recv()  # it has begun
    return process, heard


def run_victim(work: Callable[[Job], None], inputs: Path, output: Path, number: int, tells: Connection) -> None:
    """What the process does: the work of a victim; what it prints goes to a file beside the inputs."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    log = os.open(inputs.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    tells.send("begun")
    work(Job(inputs, output, number, tells.send))


def watch(process: ForkServerProcess, output: Path) -> bool:
    """Wait for a process; whether unfinished files were seen meanwhile."""
    seen = False
    while process.is_alive():
        seen = seen or bool(unfinished_files(output))
        time.sleep(POLL_S)
    process.join()
    return seen


def wait_for_moment(
    process: ForkServerProcess, output: Path, chance: random.Random, duration_s: float, *, aimed: bool
) -> None:
    """Wait for some moment of a process, or for one while it writes; no longer than it lives."""
    deadline_s = time.monotonic() + chance.uniform(0.0, duration_s)
    while process.is_alive() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    while aimed and process.is_alive() and not unfinished_files(output):
        time.sleep(POLL_S)
    if aimed:
        time.sleep(chance.choice(AFTER_S) * chance.random())


def end(process: ForkServerProcess) -> None:
    """Kill the process and all that it started."""
    pid = process.pid
    assert pid is not None
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(pid, signal.SIGKILL)
    process.join(LONGEST_S)


def said(heard: Connection) -> list[str]:
    """All that was told until the process ended; of the last word it may have got out a part only."""
    words = []
    with suppress(EOFError, OSError):
        while True:
            words.append(heard.recv())
    heard.close()
    return words


def unfinished_files(folder: Path) -> list[Path]:
    """Files and folders below that are still written, by their names."""
    found = []
    for of, folders, files in os.walk(folder):
        found += [Path(of, name) for name in (*folders, *files) if name.endswith(PART)]
    return found


def judge(victim: Victim, output: Path, told: Sequence[str], tally: Tally) -> None:
    """Read what lies there, and note what is wrong with it."""
    try:
        victim.check(output, told)
    except LostError as error:
        tally.lost.append(str(error))
    except (HalfWrittenError, SceneCompletionError) as error:
        tally.half_written.append(f"{type(error).__name__}: {error}")


def tally_table(tallies: dict[str, Tally]) -> str:
    """All victims."""
    header = (
        "what is killed",
        "s a run",
        "kills",
        "of them aimed at writes",
        "that left an unfinished file",
        "finished before",
        "lost",
        "half-written read",
        "next run failed",
        "left over",
    )
    rows = [
        (
            name,
            f"{tally.duration_s:.1f}",
            *map(str, (tally.kills, tally.aimed, tally.in_write, tally.finished)),
            *(str(len(faults)) for faults in (tally.lost, tally.half_written, tally.failed, tally.left_over)),
        )
        for name, tally in tallies.items()
    ]
    return table(header, rows)


def run_command(*arguments: object) -> None:
    """The command `scene-completion` as in a shell; it ends the process where it fails."""
    if status := cli.main([str(argument) for argument in arguments]):
        sys.exit(status)


# What `~/save` calls.


def save(job: Job) -> None:
    """Save results one after the other, as the node does when it is asked to."""
    from benchmarks.node_load import random_voxels
    from scene_completion_ros.inference.bundle import load_default_bundle
    from scene_completion_ros.ros.health.inference_health import Result
    from scene_completion_ros.ros.outputs.saving import save_result

    bundle = load_default_bundle()
    voxels = random_voxels(replace(bundle, grid=near_grid(near_grid(bundle.grid))), OCCUPIED)
    for index in range(RESULTS):
        stamped = replace(voxels, stamp_ns=SECOND_NS * job.number + index)
        npz, _ = save_result(job.output, Result(stamped, "camera"))
        job.tell(npz.name)


def check_saved(output: Path, told: Sequence[str]) -> None:
    """Every file is whole, and every pair that was told is there."""
    for name in told:
        for file in (output / name, (output / name).with_suffix(".ply")):
            if not file.exists():
                raise LostError(f"{file.name} is gone")
    for file in output.glob("[!.]*.npz"):
        read_npz(file)
        if not file.with_suffix(".ply").exists():
            raise HalfWrittenError(f"{file.name} has no .ply beside it")
    for file in output.glob("[!.]*.ply"):
        check_ply(file)


def check_ply(file: Path) -> None:
    """Raise HalfWrittenError unless a PLY file has the length that its header says."""
    content = file.read_bytes()
    head, end, body = content.partition(b"end_header\n")
    counts = [int(line.split()[2]) for line in head.splitlines() if line.startswith(b"element")]
    if not end or len(counts) != 2 or len(body) != VERTEX_BYTES * counts[0] + TRIANGLE_BYTES * counts[1]:
        raise HalfWrittenError(f"{file.name} has {len(content)} bytes, which is not what its header says")


# `scene-completion complete`.


def prepare_image(inputs: Path) -> None:
    """An image of the bundled drive, its calibration, and a grid that is completed quickly."""
    camera, images = demo_drive()
    write_picture(inputs / "image.png", images[0])
    projection = [camera.fx, 0, camera.cx, 0, 0, camera.fy, camera.cy, 0, 0, 0, 1, 0]
    (inputs / "calib.txt").write_text("P2: " + " ".join(map(str, projection)) + "\n", encoding="utf-8")
    bundle = load_default_bundle()
    write_grid(inputs / "grid.yaml", near_grid(near_grid(bundle.grid)), bundle)


def complete(job: Job) -> None:
    """Complete one image into the same folder again."""
    numba.set_num_threads(1)
    calibration = f"{job.inputs / 'calib.txt'}:P2"
    places = ("--output", job.output, "--grid", job.inputs / "grid.yaml")
    run_command("complete", job.inputs / "image.png", "--camera", calibration, *places)
    job.tell("completed")


def check_completed(output: Path, told: Sequence[str]) -> None:
    """All files are whole, and there once one process has ended."""
    for name in ("voxels.npz", "voxels.ply", "picture.png") if told else ():
        if not (output / name).exists():
            raise LostError(f"{name} is gone")
    if (file := output / "voxels.npz").exists():
        read_npz(file)
    if (file := output / "voxels.ply").exists():
        check_ply(file)
    if (file := output / "picture.png").exists() and not file.read_bytes().endswith(PNG_END):
        raise HalfWrittenError("picture.png is cut off")


# `scene-completion train` and `export`.


def prepare_training(inputs: Path) -> None:
    """A short rendered drive, and the configuration of a small training on it."""
    size = ("--size", 640, 192, "--supersampling", 1, "--assets", "--quality", 85)
    run_command("street-world", "--seed", 3, "--frames", FRAMES, "--output", inputs / "town", *size)
    configuration = {
        "stage": "single_view",
        "data": {
            "root": str(inputs / "town"),
            "cache": str(inputs / "cache"),
            "workers": 0,
            "sources": [{"folder": "sequence"}],
            "fusion": {"free_samples": 5000, "views": 2},
            "views": {"occupancy_points": 256},
        },
        "render": {"patches": 1, "samples": 8},
        "steps": STEPS,
        "warmup": 1,
        "half_resolution_steps": STEPS,
        "checkpoint_every": CHECKPOINT_EVERY,
        "picture_every": 0,
        "prior_steps": 2,
        "pretrained": False,
    }
    (inputs / "training.yaml").write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML


def training(job: Job) -> None:
    """Begin a training or go on with it; every checkpoint is told once it is written."""
    from scene_completion_training.checkpoints import SafeCheckpoints

    write = SafeCheckpoints.save_checkpoint

    def told(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(self, checkpoint, path, storage_options)
        job.tell(str(checkpoint["global_step"]))

    SafeCheckpoints.save_checkpoint = told  # type: ignore[method-assign]
    run_command("train", "--config", job.inputs / "training.yaml", "--threads", 1, f"output={job.output}")


def check_training(output: Path, told: Sequence[str]) -> None:
    """All checkpoints are whole, and the last one is no older than what was told."""
    import torch

    from scene_completion_training.checkpoints import Checkpoint

    steps = {}
    for file in output.glob("checkpoints/[!.]*.ckpt"):
        Checkpoint.read(file)
        steps[file.stem] = int(torch.load(file, weights_only=True)["global_step"])
    newest = max(map(int, told), default=0)
    if steps.get("last", 0) < newest:
        raise LostError(f"a checkpoint of step {newest} was finished, the last one is of step {steps.get('last')}")


def prepare_export(inputs: Path) -> None:
    """A checkpoint of a small training."""
    prepare_training(inputs)
    steps = ("steps=2", "half_resolution_steps=2", f"output={inputs / 'run'}")
    run_command("train", "--config", inputs / "training.yaml", "--threads", 1, *steps)


def export(job: Job) -> None:
    """Export the checkpoint into the folder of the bundle that an earlier process has exported, under another name."""
    checkpoint = job.inputs / "run" / "checkpoints" / "last.ckpt"
    run_command("export", checkpoint, job.output / "student", "--licence", "none", "--name", f"student {job.number}")
    job.tell(str(job.number))


def check_exported(output: Path, told: Sequence[str]) -> None:
    """The bundle is whole with all its files, and no older than the last one that was told."""
    if not (output / "student").exists():
        if told:
            raise LostError("the bundle is gone")
        return
    bundle = StudentBundle.load(output / "student")
    bundle.read_encoder()
    bundle.load_weights()
    if told and int(bundle.name.split()[1]) < int(told[-1]):
        raise LostError(f"student {told[-1]} was finished, but there is {bundle.name}")


# Recordings.


def record(job: Job) -> None:
    """Record text with its hash."""
    with BagWriter(job.output / f"bag_{job.number}") as writer:
        text = writer.typestore.types["std_msgs/msg/String"]
        for index in range(MESSAGES):
            writer.write("/text", "std_msgs/msg/String", text(data=message(index)), SECOND_NS + index)
            if index % 50 == 49:
                job.tell(f"bag_{job.number} {index}")


def message(index: int) -> str:
    """20 kB of text that nothing else is equal to."""
    return hashlib.sha256(str(index).encode()).hexdigest() * 300


def check_recorded(output: Path, told: Sequence[str]) -> None:
    """All messages that were told are there, each as it was written, and in order."""
    newest = dict(one.split() for one in told)
    for folder in output.iterdir():
        try:
            with BagReader(folder) as reader:
                texts = [one.message.data for one in reader.messages()]
        except BagError:
            if folder.name in newest:
                raise
            continue  # killed before anything was written: it is refused, not read
        if texts != [message(index) for index in range(len(texts))]:
            raise HalfWrittenError(f"{folder.name} holds other messages than were written")
        if len(texts) <= int(newest.get(folder.name, -1)):
            raise LostError(f"message {newest[folder.name]} was written, {folder.name} has {len(texts)}")
    if missing := [name for name in newest if not (output / name).exists()]:
        raise LostError(f"{', '.join(missing)} is gone")


_TORCH = ("scene_completion_training.runner", "scene_completion_training.stages.single_view")
VICTIMS = {
    "save": Victim(save, check_saved),
    "complete": Victim(complete, check_completed, prepare_image, ("scene_completion_ros.inference.completer",)),
    "export": Victim(export, check_exported, prepare_export, (*_TORCH, "scene_completion_training.export")),
    "training": Victim(training, check_training, prepare_training, _TORCH),
    "record": Victim(record, check_recorded),
}
"""By name: what `~/save` calls, the commands `complete`, `export`, `train`, the bag writer."""

if __name__ == "__main__":
    from benchmarks import kills  # as the processes know it

    __spec__ = None  # type: ignore[assignment]  # or each of them says that it imports this twice

    sys.exit(kills.main())
