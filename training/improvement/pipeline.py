"""From bags and a student to a better student and its report card, in steps that an interrupted run does not repeat."""

from __future__ import annotations

import errno
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import ImprovementError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.commands.train import CONFIGS
from scene_completion_training.evaluation.occupancy_run import open_recording
from scene_completion_training.evaluation.stereo_calibration import calibrate_on_stereo
from scene_completion_training.extraction.bag import Job, extract_bags, fingerprint, output_folders
from scene_completion_training.extraction.reports import BagReport
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.improvement.fine_tuning import (
    check_parity,
    export_improved,
    read_training,
    write_configuration,
)
from scene_completion_training.improvement.judging import MARGIN, TOLERANCE, judge_students, reasons_against
from scene_completion_training.improvement.report_card import ShownFrames, write_card
from scene_completion_training.improvement.split import Split, split_drives, split_replay
from scene_completion_training.improvement.steps import FULL_TEXT, UNFINISHED, Steps, disk_watched
from scene_completion_training.improvement.suitable import DriveLook, check_suitable, refuse_overlap
from scene_completion_training.runner import train

CARD = "report_card.html"
STEPS_IN_ALL = 8


@dataclass(frozen=True)
class Improvement:
    """What is asked for.

    Attributes:
        bags: Recordings to learn from.
        current: Folder of the student that is deployed.
        output: Folder of the new one, which does not exist yet.
        work: Folder for all that lies between; an interrupted run goes on there.
        held_out: Recordings to score on; where none is named, the last drives or the last part of them.
        replay: Posed sequences of earlier drives that are learned from again.
        keep: Recordings of earlier drives on which the new student must not be worse.
        steps: Optimiser steps.
        overrides: `KEY=VALUE` of the training's configuration.
        margin: Gain in average precision that is wanted.
        tolerance: Loss in average precision and IoU that is allowed.
        calibrate_every: Frames of which one is calibrated on.
        engine: What runs the encoder.
        threads: Threads of torch, of the encoder and of structure from motion; all cores where it is None.
    """

    bags: tuple[Path, ...]
    current: Path
    output: Path
    work: Path
    extraction: ExtractionSettings
    held_out: tuple[Path, ...] = ()
    replay: tuple[Path, ...] = ()
    keep: tuple[Path, ...] = ()
    steps: int = 600
    overrides: tuple[str, ...] = ()
    margin: float = MARGIN
    tolerance: float = TOLERANCE
    calibrate_every: int = 3
    engine: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        card: The report card.
        reasons: Why the old student stays; empty where the new one is accepted, and lies in the output.
    """

    card: Path
    reasons: tuple[str, ...]


def improve(asked: Improvement) -> Outcome:
    """Does all steps, or those that an earlier run has left.

    Raises:
        ImprovementError: The recordings are of no use, say why; the held-out drive was learned from; the disk is full;
            the new student is not what was trained.
        SceneCompletionError: Anything else that is wrong with what was named.
    """
    old = _checked(asked)
    steps = Steps(asked.work, STEPS_IN_ALL)
    bags = [*asked.bags, *asked.held_out]
    extracted = steps.run(
        "extracting",
        {"bags": [[str(bag.resolve()), fingerprint(bag)] for bag in bags], "settings": asked.extraction.digest()},
        lambda: _extracted(asked, bags),
    )
    of_student = {"student": dict(old.sha256)}
    usable = steps.run(
        "looking at the drives",
        of_student | {"replay": _prints(asked.replay), "keep": _prints(asked.keep)},
        lambda: _usable(asked, old, extracted),
    )
    reach = old.grid.shape[0] * old.grid.voxel_size
    split = Split(
        **{
            name: [Path(folder) for folder in folders]
            for name, folders in steps.run("splitting", {"gap": reach}, lambda: _split(asked, usable, reach)).items()
        }
    )
    checkpoint = Path(
        steps.run(
            "training",
            {"steps": asked.steps, "overrides": list(asked.overrides)},
            lambda: {"checkpoint": str(_trained(asked, old, split))},
        )["checkpoint"]
    )
    candidate = asked.work / "candidate"
    calibrated = steps.run(
        "exporting and calibrating",
        {"every": asked.calibrate_every},
        lambda: _exported(asked, old, checkpoint, split, candidate),
    )
    encoder_weights = getattr(_configuration(asked), "encoder_weights", "")
    parity = steps.run(
        "checking parity",
        {"engine": asked.engine},
        lambda: check_parity(
            StudentBundle.load(candidate),
            old,
            split.held_out,
            engine=asked.engine,
            threads=asked.threads,
            encoder_weights=encoder_weights,
        ),
    )
    judged = steps.run(
        "judging",
        {"margin": asked.margin, "tolerance": asked.tolerance},
        lambda: _judged(asked, old, StudentBundle.load(candidate), split),
    )
    facts = {
        "recordings": extracted["told"],
        "split": {name.replace("_", " "): ", ".join(_names(folders)) for name, folders in vars(split).items()},
        "replay": {
            name: ", ".join(_names(folders)) or "none"
            for name, folders in zip(("learned again", "calibrating"), split_replay(asked.replay), strict=True)
        },
        "calibration": calibrated,
        "parity": parity,
    }
    steps.run(
        "deciding", {"output": str(asked.output.resolve())}, lambda: _decided(asked, candidate, judged, facts, usable)
    )
    return Outcome(asked.work / CARD, tuple(judged["reasons"]))


def _checked(asked: Improvement) -> StudentBundle:
    """The current student; refuses at once what would fail hours later."""
    old = StudentBundle.load(asked.current)
    if WEIGHTS not in old.sha256:
        raise ImprovementError(
            f"has no {WEIGHTS}, so nothing can be trained on from it",
            where=f"student {asked.current}",
            cure="Export it without --without-weights, or name another student",
        )
    accepted_before = (asked.output / "student.json").is_file() and (asked.work / CARD).is_file()
    if asked.output.exists() and not accepted_before:
        raise ImprovementError(
            "exists already", where=str(asked.output), cure="Name a new folder: no student is overwritten"
        )
    if asked.output.resolve() == asked.current.resolve():
        raise ImprovementError(
            "is the current student", where=str(asked.output), cure="Name a new folder: the old student stays"
        )
    again = {bag.resolve() for bag in asked.bags} & {bag.resolve() for bag in asked.held_out}
    if again:
        raise ImprovementError(
            f"{', '.join(sorted(map(str, again)))} is learned from as well",
            where="--held-out",
            cure="Name other recordings: what a student has seen cannot test it",
        )
    for bag in (*asked.bags, *asked.held_out):
        if not bag.exists():
            raise ImprovementError("is not there", where=str(bag), cure="Name rosbag2 folders, .mcap, .db3 or .bag")
    read_training(CONFIGS / "single_view.yaml", asked.overrides)
    return old


def _extracted(asked: Improvement, bags: Sequence[Path]) -> dict[str, Any]:
    """Folders of the sequences of all bags, by whether they are to be held out, and what was said of each bag."""
    folders = output_folders(bags, asked.work.resolve() / "sequences")
    threads = asked.threads or 1
    jobs = [Job(bag.resolve(), folder, asked.extraction, threads) for bag, folder in zip(bags, folders, strict=True)]
    reports = extract_bags(jobs)
    for report in reports:
        if FULL_TEXT in " ".join([*report.problems, report.defect]):
            raise OSError(errno.ENOSPC, FULL_TEXT)
    found = [
        [str(folder / sequence.folder) for sequence in report.sequences]
        for folder, report in zip(folders, reports, strict=True)
    ]
    told = {Path(report.bag).name: _told(report) for report in reports}
    learned, scored = found[: len(asked.bags)], found[len(asked.bags) :]
    for name, group in (("recordings", learned), ("--held-out", scored)):
        if group and not any(group):
            raise ImprovementError(
                f"nothing could be extracted: {'; '.join(f'{bag}: {text}' for bag, text in told.items())}",
                where=name,
                cure="`scene-completion extract` names the options for poses, scale and calibration",
            )
    flat = [list(itertools.chain.from_iterable(group)) for group in (learned, scored)]
    return {"training": flat[0], "held_out": flat[1], "told": told}


def _told(report: BagReport) -> str:
    sequences = ", ".join(f"{one.frames} frames over {one.metres:.0f} m, scale {one.scale}" for one in report.sequences)
    return "; ".join([sequences or "nothing extracted", *report.problems, *report.losses])


def _usable(asked: Improvement, old: StudentBundle, extracted: dict[str, Any]) -> dict[str, Any]:
    """Drives that a student can learn from, and what was wrong with the others; refuses copies and overlaps."""
    notes: list[str] = []
    found: dict[str, list[str]] = {"training": [], "held_out": []}
    looks: dict[str, list[DriveLook]] = {"training": [], "held_out": []}
    for part in found:
        for folder in extracted[part]:
            sequence = PosedSequence.load(folder)
            try:
                check_suitable(sequence, old)
            except ImprovementError as error:
                notes.append(str(error))
                continue
            found[part].append(folder)
            looks[part].append(DriveLook.of(sequence))
        if extracted[part] and not found[part]:
            raise ImprovementError(
                f"no drive is of use. {' '.join(notes)}",
                where="recordings" if part == "training" else "--held-out",
                cure="Record the robot's own camera by day while it drives",
            )
    replayed = [DriveLook.of(open_recording(folder)) for folder in asked.replay]
    kept = [DriveLook.of(open_recording(folder)) for folder in asked.keep]
    for number, look in enumerate(looks["training"]):
        refuse_overlap([look], looks["training"][:number], role="drive")
    refuse_overlap(looks["held_out"], [*looks["training"], *replayed])
    refuse_overlap(kept, [*looks["training"], *replayed])
    refuse_overlap(looks["training"], replayed, role="drive")
    if not asked.keep:
        notes.append("No earlier drive was named with --keep: whether anything was forgotten was not looked at.")
    return {**found, "notes": notes}


def _split(asked: Improvement, usable: dict[str, Any], reach: float) -> dict[str, Any]:
    folder = asked.work.resolve() / "split"
    with disk_watched("splitting", folder):
        split = split_drives(
            [Path(one) for one in usable["training"]], [Path(one) for one in usable["held_out"]], reach, folder
        )
    return {name: [str(one) for one in folders] for name, folders in vars(split).items()}


def _configuration(asked: Improvement) -> Any:
    return read_training(asked.work / "training.yaml", asked.overrides)


def _trained(asked: Improvement, old: StudentBundle, split: Split) -> Path:
    """The checkpoint of a training that goes on from the student; one of an earlier run goes on where it stopped."""
    write_configuration(
        asked.work / "training.yaml",
        old,
        split.training,
        split_replay(asked.replay)[0],
        steps=asked.steps,
        output=asked.work.resolve() / "training",
        cache=asked.work.resolve() / "prepared",
    )
    return train(_configuration(asked), threads=asked.threads)


def _exported(
    asked: Improvement, old: StudentBundle, checkpoint: Path, split: Split, candidate: Path
) -> dict[str, Any]:
    unfinished = candidate.with_name(candidate.name + UNFINISHED)
    for folder in (unfinished, candidate):
        if folder.exists():
            shutil.rmtree(folder)
    replayed, calibrating = split_replay(asked.replay)
    learned = [open_recording(folder) for folder in (*split.training, *replayed)]
    bundle = export_improved(
        checkpoint,
        old,
        unfinished,
        name=asked.output.name,
        provenance={"trained_on": ", ".join(sequence.name for sequence in learned), "checkpoint": checkpoint.name},
    )
    groups = [[open_recording(folder) for folder in group] for group in (split.calibration, calibrating) if group]
    every, passes = asked.calibrate_every, 2 if bundle.head.volume is None else 1
    total = sum(
        len(range(0, len(one), every)) for one in (*learned, *(passes * list(itertools.chain.from_iterable(groups))))
    )
    with _counted(total, "frame") as bar:
        bundle = calibrate_on_stereo(
            bundle,
            learned,
            groups,
            every=every,
            engine=asked.engine,
            threads=asked.threads,
            on_frame=bar.update,
        )
    unfinished.rename(candidate)
    record: dict[str, Any] = bundle.provenance["calibration"]
    return {"threshold": bundle.threshold, **{name: str(value) for name, value in record.items()}}


def _judged(asked: Improvement, old: StudentBundle, new: StudentBundle, split: Split) -> dict[str, Any]:
    shown = ShownFrames(asked.work / "pictures")
    options: dict[str, Any] = {"engine": asked.engine, "threads": asked.threads, "progress": _bar}
    on_new = judge_students(old, new, split.held_out, seen=shown, **options)
    on_old = judge_students(old, new, asked.keep, **options) if asked.keep else None
    reasons = reasons_against(on_new, on_old, margin=asked.margin, tolerance=asked.tolerance)
    drives = {"held-out drive": on_new.content()} | ({"old drives": on_old.content()} if on_old else {})
    return {"reasons": reasons, "drives": drives, "frames": shown.chosen()}


def _bar(tasks: list[Any]) -> Iterator[Any]:
    """Goes through tasks, and shows how many are done and how long the others will take."""
    with _counted(len(tasks), "frame") as bar:
        for task in tasks:
            yield task
            bar.update()


def _counted(total: int, unit: str) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(total=total, unit=unit, file=sys.stderr, disable=None)


def _decided(
    asked: Improvement, candidate: Path, judged: dict[str, Any], facts: dict[str, Any], usable: dict[str, Any]
) -> dict[str, Any]:
    """Writes the card, and the new student where it is accepted: whole, by renaming it at the end."""
    write_card(
        asked.work / CARD,
        title=f"Report card of {asked.output.name}",
        reasons=judged["reasons"],
        judged=judged["drives"],
        frames=judged["frames"],
        pictures=asked.work / "pictures",
        facts=facts,
        notes=usable["notes"],
    )
    if not judged["reasons"]:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = asked.output.with_name(f".{asked.output.name}{UNFINISHED}")
        with disk_watched("writing the new student", asked.output.parent):
            if unfinished.exists():
                shutil.rmtree(unfinished)
            try:
                shutil.copytree(candidate, unfinished)
                StudentBundle.load(unfinished)  # hashes of all files
                unfinished.rename(asked.output)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return {"accepted": not judged["reasons"]}


def _names(folders: Sequence[Path]) -> list[str]:
    return [str(Path(*Path(folder).parts[-2:])) for folder in folders]


def _prints(folders: Sequence[Path]) -> list[list[str]]:
    """Folders with the fingerprints of what they say of their frames."""
    return [[str(folder.resolve()), fingerprint(folder)] for folder in folders]
