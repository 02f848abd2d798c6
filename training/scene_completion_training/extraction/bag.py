"""Bags to posed sequences: everything usable in one, and many at once."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError, SceneCompletionError, SequenceError, TransformConflictError, of_system
from scene_completion_ros.progress import Progress
from scene_completion_ros.sequences.from_bag import Recording, posed_recording, read_recordings
from scene_completion_ros.sequences.posed_sequence import PosedSequence, files_of_sequence
from scene_completion_ros.whole_files import whole_folder
from scene_completion_training.extraction.finishing import finished
from scene_completion_training.extraction.images_to_poses import sequences_from_images
from scene_completion_training.extraction.settings import (
    REPORT_NAME,
    BagReport,
    ExtractionSettings,
    SequenceSummary,
    read_report,
)

Phase = Callable[[str], None]
ANSWER_S = 10.0  # seconds that a cluster has to take a connection; Ray itself would try for minutes


@dataclass(frozen=True)
class Job:
    """One bag to be extracted."""

    bag: Path  # its absolute path, links followed
    folder: Path  # folder for its sequences and its report
    settings: ExtractionSettings
    threads: int = 1


def finished_report(job: Job) -> BagReport | None:
    """The report of an earlier extraction of the same bag, unchanged, with the same settings; None where there is none.

    Raises SequenceError where the folder holds another bag or something else.
    """
    if not job.folder.exists():
        return None
    report = read_report(job.folder)
    if report is None or Path(report.bag) != job.bag:
        what = "no extracted bag" if report is None else f"the extraction of {report.bag}"
        what = f"holds {what}"
        raise SequenceError(what, where=str(job.folder), cure="Name another --output, nothing is overwritten")
    same = report.fingerprint == fingerprint(job.bag) and report.settings == job.settings.digest()
    return report if same and report.status == "complete" else None


def extract_bag(job: Job, progress: Phase = lambda _: None) -> BagReport:
    """Extract a bag; whatever is wrong with it ends in the report.

    The folder appears when everything in it is written. It replaces an earlier extraction of the same bag, of which
    files that are not listed there stay. A failed extraction replaces no sequence: where there are some, its report is
    the file NAME.failed.json next to their folder.
    """
    started = time.monotonic()
    report = BagReport(str(job.bag), "", job.settings.digest(), job.settings.changed())
    failed = job.folder.with_name(f"{job.folder.name}.failed.json")
    try:
        report.fingerprint = fingerprint(job.bag)
        with whole_folder(job.folder, None) as unfinished:
            _extract(job, unfinished, report, progress)
            if not report.sequences:
                raise _NothingExtractedError
            report.status, report.seconds = "complete", round(time.monotonic() - started, 1)
            _keep_files_of_others(job.folder, unfinished)
            report.write(unfinished / REPORT_NAME)
        failed.unlink(missing_ok=True)
    except Exception as error:  # one bag must never stop the others
        report.status, report.seconds = "failed", round(time.monotonic() - started, 1)
        report.sequences.clear()
        if not isinstance(error, _NothingExtractedError):
            known = of_system(error, str(job.folder)) if isinstance(error, OSError) else error
            report.defect = "" if isinstance(known, SceneCompletionError) else traceback.format_exc()
            report.problems.append(
                f"defect of the program: {type(error).__name__}: {error}" if report.defect else str(known)
            )
        earlier = read_report(job.folder)
        stays = earlier is not None and bool(earlier.sequences)
        report.problems += [f"the earlier extraction stays as it was: {job.folder}"] * stays
        with suppress(OSError):  # the command prints it too
            report.write(failed if stays else job.folder / REPORT_NAME)
    return report


class _NothingExtractedError(Exception):
    """The reasons are in the report."""


def _keep_files_of_others(folder: Path, replacement: Path) -> None:
    """Copy what an extraction does not list among its files from its folder to the one that replaces it."""
    earlier = read_report(folder)
    listed = {folder / REPORT_NAME}
    for sequence in earlier.sequences if earlier else ():
        listed |= files_of_sequence(folder / sequence.folder)
    for file in folder.rglob("*"):
        if file in listed or (file.is_dir() and not file.is_symlink()):
            continue
        kept = replacement / file.relative_to(folder)
        if kept.exists():
            cure = "Move it away, or name another --output"
            raise SequenceError("is no file of the earlier extraction, and in the way", where=str(file), cure=cure)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, kept, follow_symlinks=False)


def fingerprint(bag: Path) -> str:
    """Hash of names, sizes and modification times of a bag's files."""
    files = sorted(path for path in bag.iterdir() if path.is_file()) if bag.is_dir() else [bag]
    content = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _extract(job: Job, folder: Path, report: BagReport, progress: Phase) -> None:
    settings = job.settings
    progress("reading")
    with BagReader(job.bag) as reader:
        try:
            topics, tolerance = settings.image_topics or None, round(settings.sync_tolerance_s * 1e9)
            options: dict[str, Any] = {"split_at_clock_jumps": True, "calibration": dict(settings.calibration)}
            recordings = read_recordings(reader, topics, sync_tolerance_ns=tolerance, **options)
            if len(recordings) > 1:
                report.warnings.append(f"the clock of the stamps starts anew {len(recordings) - 1} times: split there")
            _note_unused_topics(reader, recordings[0], report)
            for recording in recordings:
                _extract_recording(recording, job, folder, report, progress)
                report.skipped.update(recording.dropped)
                report.warnings += dict.fromkeys(recording.warnings)
        finally:
            report.losses += reader.losses
            report.warnings += reader.warnings
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
        for sequence in _posed(_complete_frames(_placed(recording, report), job.settings), job, report, progress):
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
            reason = f"{camera}: no image within {settings.sync_tolerance_s * 1e3:g} ms of the other cameras"
            recording.dropped[reason] += 1
    if not complete:
        what = f"no time at which all of {', '.join(recording.cameras)} have an image"
        cure = "Raise --set sync_tolerance_s if they are not triggered at once, or choose one with --image-topic"
        raise SequenceError(what, where=str(recording.reader.path), cure=cure)
    return dataclasses.replace(recording, groups=complete)


def _posed(recording: Recording, job: Job, report: BagReport, progress: Phase) -> list[PosedSequence]:
    """Sequences with poses, not yet thinned out: recorded ones where there are any, otherwise out of the images."""
    settings = job.settings
    if settings.poses != "sfm":
        progress("poses")
        dropped_before = recording.dropped.copy()
        try:
            names = ("world_frame", "odometry_topic", "lidar_topic", "ground_frame", "ground_height")
            wanted = {name: getattr(settings, name) for name in names}
            posed = posed_recording(recording, max_gap_s=settings.pose_gap_s, **wanted)
        except (BagError, SequenceError) as error:
            given_up = settings.poses == "recorded" or settings.ground_frame
            if given_up or isinstance(error, TransformConflictError):
                raise
            recording.dropped.clear()  # images without a recorded pose get one from their content
            recording.dropped.update(dropped_before)
            why = f"no recorded poses, so they come from the images: {error}"
            report.warnings.append(why)
            print(f"{job.bag.name}: {why}", file=sys.stderr)
        else:
            posed.provenance["scale"] = {"source": "recorded", "support": posed.pose_source}
            return _split_at_gaps(posed, settings, report)
    return sequences_from_images(recording, settings, job.threads, report, progress)


def _split_at_gaps(sequence: PosedSequence, settings: ExtractionSettings, report: BagReport) -> list[PosedSequence]:
    """Cut a sequence where nothing was recorded, or no pose was known, for long."""
    frames = sequence.frames
    gaps = np.diff([frame.stamp_ns for frame in frames])
    starts = (np.flatnonzero(gaps > settings.split_gap_s * 1e9) + 1).tolist()
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
    scale = result.provenance["scale"]
    seconds = round((result.frames[-1].stamp_ns - result.frames[0].stamp_ns) / 1e9, 3)
    metres, known_by = round(result.travelled_distance(), 3), (str(scale["source"]), str(scale["support"]))
    taken = len(result), list(result.cameras), seconds, metres, result.pose_source
    report.sequences.append(SequenceSummary(folder.name, *taken, *known_by))


def extract_bags(jobs: Sequence[Job], processes: int = 1, ray_address: str | None = None) -> list[BagReport]:
    """Extract bags, a report each, in order; those extracted before, unchanged and with equal settings, are left alone.

    `processes`: bags at once on this machine, each in a process of its own that fails its bag only. One bag at a time
    is extracted in this process. `ray_address`: a Ray cluster instead, or `auto`, whose machines have bags and output
    under the same paths. Raises SceneCompletionError where the cluster does not answer, or no machine of it has enough
    cores.
    """
    reports: dict[int, BagReport] = {}
    waiting: list[int] = []
    for index, job in enumerate(jobs):
        try:
            earlier = finished_report(job)
        except SceneCompletionError as error:
            reports[index] = _failed(job, str(error))
            continue
        if earlier is None:
            waiting.append(index)
        else:
            reports[index] = earlier
    if len(reports) and waiting:
        print(f"{len(reports)} of {len(jobs)} bags need nothing", file=sys.stderr)
    with Progress(len(waiting), "bag") as bar:
        remaining = {index: jobs[index] for index in waiting}
        if ray_address is not None and waiting:
            done = _on_cluster(remaining, ray_address)
        elif min(processes, len(waiting)) > 1:
            done = _in_processes(remaining, processes)
        else:
            done = ((index, extract_bag(job, bar.say)) for index, job in remaining.items())
        for index, report in done:
            reports[index] = report
            bar.step()
    return [reports[index] for index in range(len(jobs))]


def _in_processes(jobs: Mapping[int, Job], processes: int) -> Iterator[tuple[int, BagReport]]:
    with ThreadPoolExecutor(processes) as pool:
        running = {pool.submit(_in_process, job): index for index, job in jobs.items()}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(bag.done() for bag in running):  # a thread may start its process only now
                for process in active_children():
                    process.terminate()
                wait(running, timeout=0.1)
            raise


def _in_process(job: Job) -> BagReport:
    """Extract a bag in a process of its own, which takes no other bag with it where it dies."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(extract_bag, job).result()
        except BrokenProcessPool:
            return _failed(job, "its process died: check this machine's memory")


def _on_cluster(jobs: Mapping[int, Job], address: str) -> Iterator[tuple[int, BagReport]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user wants it
    ray: Any = import_module("ray")
    where = f"--ray-address {address}"
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    try:
        if colon:  # not `auto` and the like
            socket.create_connection((host, int(port)), ANSWER_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        cure = "Check `ray status` on its head node, and the address"
        raise SceneCompletionError(f"no Ray cluster answers: {error}", where=where, cure=cure) from error
    try:
        threads = max(job.threads for job in jobs.values())
        most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if most < threads:
            what = f"a bag takes {threads} cores, and no machine of the cluster has more than {most:g}"
            raise SceneCompletionError(what, where="--threads", cure="Lower --threads, or add machines")
        extracting = ray.remote(num_cpus=threads, max_retries=1)(extract_bag)
        running = {extracting.remote(job): index for index, job in jobs.items()}
        while running:
            (done,), _ = ray.wait(list(running))
            index = running.pop(done)
            try:
                report = ray.get(done)
            except ray.exceptions.RayError as error:
                report = _failed(jobs[index], f"its worker failed: {str(error).strip().splitlines()[-1]}")
            if report.sequences and not jobs[index].folder.exists():
                what = f"{jobs[index].folder} was written on another machine: name an --output that all of them share"
                report = _failed(jobs[index], what)
            yield index, report
    finally:
        ray.shutdown()


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


def _failed(job: Job, problem: str) -> BagReport:
    print_of_bag = fingerprint(job.bag) if job.bag.exists() else ""
    return BagReport(str(job.bag), print_of_bag, job.settings.digest(), problems=[problem])
