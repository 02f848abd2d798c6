"""Bags to posed sequences: everything usable in one, and many at once."""

import dataclasses
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError, SceneCompletionError, SequenceError, of_system
from scene_completion_ros.progress import Progress
from scene_completion_ros.sequences.from_bag import Recording, posed_recording, read_recordings, turned_doubts
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.whole_files import whole_folder
from scene_completion_training.extraction.finishing import ExtractionSettings, finished
from scene_completion_training.extraction.report import REPORT_NAME, BagReport, SequenceSummary

Phase = Callable[[str], None]
SPLIT_GAP_S = 2.0  # a longer time without images or poses begins another sequence


@dataclass(frozen=True)
class Job:
    """One bag to be extracted."""

    bag: Path  # its absolute path, links followed
    folder: Path  # of its sequences and its report
    settings: ExtractionSettings
    overwrite: bool = False  # replaces what a former extraction wrote there


def extract_bag(job: Job, progress: Phase = lambda _: None) -> BagReport:
    """Extract a bag; whatever is wrong with it ends in the report.

    The folder appears, or is replaced, when everything in it is written.
    """
    started = time.monotonic()
    report = BagReport(str(job.bag), asdict(job.settings))
    try:
        if job.folder.exists() and not job.overwrite:
            cure = "Delete it or name another --output, or extract it again with --overwrite"
            raise SequenceError("exists already", where=str(job.folder), cure=cure)
        with whole_folder(job.folder, ("[0-9][0-9]*", REPORT_NAME), replace=job.overwrite) as unfinished:
            _extract(job, unfinished, report, progress)
            if not report.sequences:
                raise _NothingExtractedError
            report.seconds = round(time.monotonic() - started, 1)
            report.write(unfinished / REPORT_NAME)
    except Exception as error:  # one bag must never stop the others
        report.sequences.clear()
        if not isinstance(error, _NothingExtractedError):
            known = of_system(error, str(job.folder)) if isinstance(error, OSError) else error
            problem = str(known)
            if not isinstance(known, SceneCompletionError):
                traceback.print_exc()
                problem = f"defect of the program: {type(error).__name__}: {error}"
            report.problems.append(problem)
    return report


class _NothingExtractedError(Exception):
    """The reasons are in the report."""


def _extract(job: Job, folder: Path, report: BagReport, progress: Phase) -> None:
    settings = job.settings
    progress("reading")
    with BagReader(job.bag, rectified=settings.rectified) as reader:
        try:
            recordings = read_recordings(
                reader,
                settings.image_topics or None,
                sync_tolerance_ns=round(settings.sync_tolerance * 1e9),
                split_at_clock_jumps=True,
                calibration=dict(settings.camera_files),
            )
            if len(recordings) > 1:
                report.warnings.append(f"the clock of the stamps starts anew {len(recordings) - 1} times: split there")
            _note_unused_topics(reader, recordings[0], report)
            for recording in recordings:
                _extract_recording(recording, job, folder, report, progress)
                report.skipped.update(recording.dropped)
                report.warnings += dict.fromkeys(recording.warnings)
        finally:
            report.losses += reader.losses
            report.skipped.update(reader.skipped)


def _note_unused_topics(reader: BagReader, recording: Recording, report: BagReport) -> None:
    used = set(recording.topics.values())
    for topic in reader.image_topics():
        if topic not in used and f"{topic}/compressed" not in used and reader.camera_info_topic(topic) is None:
            report.warnings.append(
                f"{topic} is left out: no CameraInfo. Record its camera_info topic or give --camera-file"
            )


def _extract_recording(recording: Recording, job: Job, folder: Path, report: BagReport, progress: Phase) -> None:
    """Extract one window of the clock; what is wrong with it leaves the other windows alone."""
    try:
        complete = _complete_frames(_placed(recording, report), job.settings)
        progress("poses")
        names = ("world_frame", "odometry_topic", "lidar_topic", "ground_frame", "ground_height")
        options: dict[str, Any] = {name: getattr(job.settings, name) for name in names}
        whole = posed_recording(complete, **options)
        doubts = turned_doubts(complete, whole)
        complete.warnings += doubts
        whole.provenance["warnings"] += doubts
        for sequence in _split_at_gaps(whole, report):
            _save(sequence, job, folder / f"{len(report.sequences):02d}", report, progress)
    except SceneCompletionError as error:
        report.problems.append(str(error))


def _placed(recording: Recording, report: BagReport) -> Recording:
    """Leave out the cameras whose place on the rig is unknown."""
    buffer = recording.transforms()
    cameras = {}
    for name, camera in recording.cameras.items():
        try:
            recording.rig_from_camera(buffer, name)
            cameras[name] = camera
        except BagError as error:
            report.warnings.append(f"camera {name} is left out: {error}")
    every = recording.groups
    groups = [(stamp, {n: source for n, source in images.items() if n in cameras}) for stamp, images in every]
    return dataclasses.replace(recording, cameras=cameras, groups=groups)


def _complete_frames(recording: Recording, settings: ExtractionSettings) -> Recording:
    """Leave out the frames that not all cameras have, counted by the camera that is missing."""
    complete = [(stamp, images) for stamp, images in recording.groups if len(images) == len(recording.cameras)]
    for _, images in recording.groups:
        for camera in recording.cameras.keys() - images.keys():
            reason = f"{camera}: no image within {settings.sync_tolerance * 1e3:g} ms of the other cameras"
            recording.dropped[reason] += 1
    if not complete:
        what = f"no time at which all of {', '.join(recording.cameras)} have an image"
        cure = "Raise --sync-tolerance if they are not triggered at once, or choose one with --image-topic"
        raise SequenceError(what, where=str(recording.reader.path), cure=cure)
    return dataclasses.replace(recording, groups=complete)


def _split_at_gaps(sequence: PosedSequence, report: BagReport) -> list[PosedSequence]:
    """Cut a sequence where nothing was recorded, or no pose was known, for long."""
    frames = sequence.frames
    gaps = np.diff([frame.stamp_ns for frame in frames])
    starts = (np.flatnonzero(gaps > SPLIT_GAP_S * 1e9) + 1).tolist()
    for index in starts:
        report.warnings.append(f"gap of {gaps[index - 1] / 1e9:.1f} s after frame {index - 1}: split there")
    ends = [*starts, len(frames)]
    return [dataclasses.replace(sequence, frames=frames[a:b]) for a, b in zip([0, *starts], ends, strict=True)]


def _save(sequence: PosedSequence, job: Job, folder: Path, report: BagReport, progress: Phase) -> None:
    progress("keyframes")
    result = finished(sequence, job.settings, report)
    if result is None:
        return
    result.name = f"{job.folder.name}/{folder.name}"
    progress(f"writing {len(result)} frames")
    result.save(folder)
    seconds = round((result.frames[-1].stamp_ns - result.frames[0].stamp_ns) / 1e9, 3)
    metres = round(result.travelled_distance(), 3)
    summary = SequenceSummary(folder.name, len(result), list(result.cameras), seconds, metres, result.pose_source)
    report.sequences.append(summary)


def extract_bags(jobs: Sequence[Job]) -> list[BagReport]:
    """Extract bags, one at a time. Returns their reports."""
    reports = []
    with Progress(len(jobs), "bag") as bar:
        for job in jobs:
            reports.append(extract_bag(job, bar.say))
            bar.step()
    return reports


def output_folders(bags: Sequence[Path], output: Path) -> list[Path]:
    """One folder a bag, named after it; bags of one name are named after their folder too, then by number."""
    names = [bag.stem for bag in bags]
    if len(set(names)) < len(names):
        names = [f"{bag.parent.name}_{bag.stem}" for bag in bags]
    seen: dict[str, int] = {}
    folders = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        folders.append(output / (name if seen[name] == 1 else f"{name}_{seen[name]}"))
    return folders
