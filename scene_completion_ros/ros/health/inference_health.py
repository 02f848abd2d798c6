"""The inference thread, as recorded and as judged: its model and times, what voxels are compared with, the map."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scene_completion_ros.geometry.cameras import LARGEST_MOVE
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros.health.judgement import Drops, Event, Level, Record, Status, of_camera
from scene_completion_ros.ros.student import ModelReport, Student

TIMES_KEPT = 100  # images over which times are summed up
LONGEST_WORK_S = 20.0  # seconds for a model or an image, after which it is a warning
VOCABULARY = "vocabulary"


@dataclass(frozen=True)
class WordsReport:
    """What voxels are compared with."""

    classes: tuple[str, ...] = ()  # names of the vocabulary's classes; empty where labels are those of the bundle
    bank_sha256: str = ""  # hash of its text bank
    changed: int = 0  # how often another vocabulary was taken while the node was configured
    phrases: tuple[str, ...] = ()  # what is looked for
    refused: Event = Event()  # a vocabulary or a query could not be used


def meaning_of(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """What a `WordsReport` says of a vocabulary; None for the labels of the bundle."""
    if vocabulary is None:
        return {"classes": (), "bank_sha256": ""}
    return {"classes": vocabulary.names, "bank_sha256": vocabulary.bank_sha256}


def words_status(report: WordsReport, now_s: float, recent_s: float) -> Status:
    """What voxels are compared with, and what was refused in the last `recent_s` s; `now_s`: by `time.perf_counter`."""
    last = report.refused.values("last refused", now_s)
    values = {
        "classes": ", ".join(report.classes) or "those of the bundle",
        "text bank sha256": report.bank_sha256,
        "times changed": str(report.changed),
        "looked for": ", ".join(report.phrases),
        "refused": str(report.refused.count),
        **last,
    }
    if report.refused.recent(now_s, recent_s):
        return Status(VOCABULARY, Level.WARN, f"refused {last['last refused']}", values)
    named = f"{len(report.classes)} classes of a vocabulary" if report.classes else "the labels of the bundle"
    return Status(VOCABULARY, Level.OK, f"{named}, {len(report.phrases)} phrases looked for", values)


NAME = "fusion"


@dataclass(frozen=True)
class FusionReport:
    """The map of earlier images, and what was joined with it."""

    joined: int = 0  # images (or sets of several cameras) joined with the map since the node was configured
    alone: Event = Event()  # one was published without being joined
    started: Event = Event()  # the map was started anew, the first time not counted
    map_voxels: int = 0  # voxels that the map holds; 0 where there is none
    map_mb: float = 0.0  # memory of the map, megabytes
    age_s: float = 0.0  # seconds between the stamps of the first and the last image in the map
    updated: int = 0  # voxels that the last image had something to say about
    entered: int = 0  # voxels that became new before it because the robot moved


def fusion_status(report: FusionReport, now_s: float, recent_s: float, *, wanted: bool) -> Status:
    """The map of earlier images, and whether images are joined with it.

    `now_s`: now, by `time.perf_counter`; `recent_s`: how long an image that had to do without the map is a warning,
    seconds; `wanted`: parameter `fusion.enabled`.
    """
    alone = report.alone.values("last published alone", now_s)
    values = {
        "images joined": str(report.joined),
        "images published alone": str(report.alone.count),
        "map voxels": str(report.map_voxels),
        "map MB": f"{report.map_mb:.1f}",
        "map age s": f"{report.age_s:.1f}",
        "voxels updated by the last image": str(report.updated),
        "voxels that came into the map before it": str(report.entered),
        "times started anew": str(report.started.count),
        **report.started.values("last started anew", now_s),
        **alone,
    }
    if not wanted:
        return Status(NAME, Level.OK, "off (parameter fusion.enabled)", values)
    if report.alone.recent(now_s, recent_s):
        message = (
            f"the node published the voxels of {report.alone.count} images without those of earlier ones, the last "
            f"{alone['last published alone']}"
        )
        return Status(NAME, Level.WARN, message, values)
    if not report.joined:
        return Status(NAME, Level.OK, "waiting for the first image", values)
    return Status(NAME, Level.OK, f"map of {report.age_s:.1f} s, {report.map_mb:.0f} MB", values)


DEPTH = "depth"


@dataclass(frozen=True)
class DepthReport:
    """What a sensor of depth gave to images."""

    sensed: Event = Event()  # an image had depth of the sensor
    without: Event = Event()  # an image had to do without
    # Of the last `TIMES_KEPT` images that had it: by how many ms it was older, and the share of pixels that it saw.
    last: tuple[tuple[float, float], ...] = ()


def depth_status(report: DepthReport, now_s: float, recent_s: float) -> Status:
    """What the sensor contributes; a warning where images of the last `recent_s` seconds all had to do without."""
    values = {
        "images with depth of the sensor": str(report.sensed.count),
        "images without": str(report.without.count),
        **report.without.values("last without", now_s),
    }
    if report.last:
        age_ms, share = np.median(np.array(report.last), axis=0)
        values |= {"median age ms": f"{age_ms:.1f}", "pixels sensed": f"{100.0 * share:.1f} %"}
    if report.without.recent(now_s, recent_s) and not report.sensed.recent(now_s, recent_s):
        return Status(DEPTH, Level.WARN, f"no image has depth of the sensor: {report.without.why}", values)
    if not report.last:
        return Status(DEPTH, Level.OK, "waiting for the first image", values)
    return Status(DEPTH, Level.OK, f"{values['pixels sensed']} of the pixels, {values['median age ms']} ms old", values)


FULL_DETAIL_STAGES = ("latency", "total")  # the stages that the message names


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage over the last `TIMES_KEPT` images."""

    mean: float
    p95: float
    largest: float


class InferenceRecord:
    """Written by the inference thread. `vocabulary`: what labels mean at first; None for the classes of the bundle."""

    def __init__(self, student: Student, vocabulary: Vocabulary | None = None) -> None:
        self.fusion = Record(FusionReport())  # what became of the map of earlier images
        self.scales: dict[str, Scale] = {}  # by what depths are multiplied, by the names of the cameras
        self.depth = Record(DepthReport())  # what a sensor of depth gave to images
        self.words = Record(WordsReport(**meaning_of(vocabulary)))  # what voxels are compared with
        self.student = student  # whose models are reported
        self.busy_s: Callable[[], float] = lambda: 0.0  # how long its thread has been at its present work, seconds
        self._lock = threading.Lock()
        self._times_ms: deque[Mapping[str, float]] = deque(maxlen=TIMES_KEPT)
        self._result_s: float | None = None

    def result_age_s(self, now_s: float) -> float | None:
        """Seconds between the last result and a moment of `time.perf_counter`; None before the first."""
        with self._lock:
            return None if self._result_s is None else now_s - self._result_s

    def completed(self, times_ms: Mapping[str, float]) -> None:
        """A scene was completed and published, in these times by stage."""
        with self._lock:
            self._result_s = time.perf_counter()
            self._times_ms.append(dict(times_ms))

    def forget(self) -> None:
        """Forget times; the model stays."""
        with self._lock:
            self._times_ms.clear()
            self._result_s = None
        self.scales.clear()
        self.depth.report = DepthReport()

    def times(self) -> dict[str, StageTime]:
        """Times by stage; empty where no image was completed."""
        with self._lock:
            rows = list(self._times_ms)
        stages = rows[-1] if rows else {}
        columns = {stage: np.array([row[stage] for row in rows if stage in row]) for stage in stages}
        return {
            stage: StageTime(float(column.mean()), float(np.percentile(column, 95)), float(column.max()))
            for stage, column in columns.items()
        }


def inference_status(record: InferenceRecord, drops: Drops, *, processed: int, unwanted: int) -> Status:
    """The model, and how long images take. `processed`: images completed since the node started."""
    models, times = dict(record.student.models) or {"": ModelReport()}, record.times()
    values = {
        "student": record.student.title,
        "images completed": str(processed),
        "images that nobody subscribed to": str(unwanted),
    }
    for camera, model in models.items():
        values |= {of_camera("model", camera): model.state, of_camera("engine", camera): model.engine}
    for camera, scale in dict(record.scales).items():
        values[of_camera("scale by motion", camera)] = scale.described()
    for stage, time_ms in times.items():
        values[f"{stage} ms"] = f"mean {time_ms.mean:.2f}, p95 {time_ms.p95:.2f}, max {time_ms.largest:.2f}"
    problems = drops.problems(judged_by="inference")
    unusable = {name or "this camera": model.error for name, model in models.items() if model.error}
    errors = [f"images of {name} cannot be completed: {error}" for name, error in unusable.items()]
    if errors:
        return Status("inference", Level.ERROR, "; ".join(errors), values)
    if problems:
        cure = "see the log, and report internal errors"
        message = f"images dropped in the last {drops.recent_s:.0f} s: {problems}; {cure}"
        return Status("inference", Level.ERROR, message, values)
    since_s = time.perf_counter() - drops.recent_s
    rebuilt = sum(moment_s >= since_s for moment_s in tuple(record.student.rebuilt_s))
    if rebuilt > 1:
        message = (
            f"the calibration changed {rebuilt} times in the last {drops.recent_s:.0f} s by more than {LARGEST_MOVE} "
            f"pixel, and each time the node built its model anew; {drops.recent.get(DropReason.NEWER_IMAGE, 0)} images "
            "were dropped meanwhile: fix the focus and zoom of the camera, or publish one CameraInfo"
        )
        return Status("inference", Level.WARN, message, values)
    slowest = [f"{stage} {times[stage].mean:.1f} ms" for stage in FULL_DETAIL_STAGES if stage in times]
    states = [f"{name} {model.state}".strip() for name, model in models.items()]
    message = ", ".join([*states, *slowest])
    if (busy_s := record.busy_s()) > LONGEST_WORK_S:
        message = f"nothing has come of {record.student.title} for {busy_s:.0f} s: {message}"
        return Status("inference", Level.WARN, message, values)
    return Status("inference", Level.OK, message, values)
