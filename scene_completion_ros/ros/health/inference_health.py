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
from scene_completion_ros.ros.health.judgement import Drops, Level, Record, Status, of_camera
from scene_completion_ros.ros.student import ModelReport, Student

TIMES_KEPT = 100  # images over which times are summed up
LONGEST_WORK_S = 20.0  # seconds for a model or an image, after which it is a warning
VOCABULARY = "vocabulary"


@dataclass(frozen=True)
class WordsReport:
    """All of it at one moment; times are those of `time.perf_counter`."""

    classes: tuple[str, ...] = ()  # names of the vocabulary's classes; empty where labels are those of the bundle
    bank_sha256: str = ""  # hash of its text bank
    changed: int = 0  # how often another vocabulary was taken while the node was configured
    phrases: tuple[str, ...] = ()  # what is looked for
    refused: int = 0  # vocabularies and queries that could not be used
    why_refused: str = ""  # why the last one could not
    refused_s: float | None = None  # when that was


class WordsRecord(Record[WordsReport]):
    """Written by the inference thread and by those that hear words.

    `vocabulary`: the one at first; None for the labels of the bundle.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(WordsReport(**_meaning(vocabulary)))

    def use(self, vocabulary: Vocabulary | None) -> None:
        """Voxels have the labels of a vocabulary from now on; None for those of the bundle."""
        self._change(counted="changed", **_meaning(vocabulary))

    def look_for(self, query: Vocabulary | None) -> None:
        """Phrases are looked for from now on; None for no more."""
        self._change(phrases=() if query is None else query.names)

    def refused(self, why: str) -> None:
        """A vocabulary or a query could not be used."""
        self._change(counted="refused", why_refused=why, refused_s=time.perf_counter())


def _meaning(vocabulary: Vocabulary | None) -> dict[str, Any]:
    if vocabulary is None:
        return {"classes": (), "bank_sha256": ""}
    return {"classes": vocabulary.names, "bank_sha256": vocabulary.bank_sha256}


def words_status(report: WordsReport, now_s: float, recent_s: float) -> Status:
    """What voxels are compared with, and what was refused in the last `recent_s` s; `now_s`: by `time.perf_counter`."""
    values = {
        "classes": ", ".join(report.classes) or "those of the bundle",
        "text bank sha256": report.bank_sha256,
        "times changed": str(report.changed),
        "looked for": ", ".join(report.phrases),
        "refused": str(report.refused),
    }
    if report.refused_s is not None:
        values["last refused"] = f"{now_s - report.refused_s:.1f} s ago: {report.why_refused}"
        if now_s - report.refused_s <= recent_s:
            return Status(
                VOCABULARY, Level.WARN, f"refused {now_s - report.refused_s:.1f} s ago: {report.why_refused}", values
            )
    named = f"{len(report.classes)} classes of a vocabulary" if report.classes else "the labels of the bundle"
    return Status(VOCABULARY, Level.OK, f"{named}, {len(report.phrases)} phrases looked for", values)


NAME = "fusion"


@dataclass(frozen=True)
class FusionReport:
    """All of it at one moment; times are those of `time.perf_counter`."""

    joined: int = 0  # images (or sets of several cameras) joined with the map since the node was configured
    alone: int = 0  # those published without being joined
    why_alone: str = ""  # why the last one was, with the cure; empty where none was
    alone_s: float | None = None  # when that was
    started: int = 0  # how often the map was started anew, the first time not counted
    why_started: str = ""  # why it was the last time
    started_s: float | None = None  # when that was
    map_voxels: int = 0  # voxels that the map holds; 0 where there is none
    map_mb: float = 0.0  # memory of the map, megabytes
    age_s: float = 0.0  # seconds between the stamps of the first and the last image in the map
    updated: int = 0  # voxels that the last image had something to say about
    entered: int = 0  # voxels that became new before it because the robot moved


class FusionRecord(Record[FusionReport]):
    """Written by the inference thread."""

    def __init__(self) -> None:
        super().__init__(FusionReport())

    def joined(self, *, map_voxels: int, map_mb: float, age_s: float, updated: int, entered: int) -> None:
        """An image was joined with the map."""
        now = {"map_voxels": map_voxels, "map_mb": map_mb, "age_s": age_s, "updated": updated, "entered": entered}
        self._change(counted="joined", **now)

    def alone(self, why: str) -> None:
        """An image was not joined."""
        self._change(counted="alone", why_alone=why, alone_s=time.perf_counter())

    def started(self, why: str) -> None:
        """The map forgot everything."""
        self._change(counted="started", why_started=why, started_s=time.perf_counter())

    def released(self) -> None:
        """There is no map any more."""
        self._change(map_voxels=0, map_mb=0.0, age_s=0.0, updated=0, entered=0)


def fusion_status(report: FusionReport, now_s: float, recent_s: float, *, wanted: bool) -> Status:
    """The map of earlier images, and whether images are joined with it.

    `now_s`: now, by `time.perf_counter`; `recent_s`: how long an image that had to do without the map is a warning,
    seconds; `wanted`: parameter `fusion.enabled`.
    """
    values = {
        "images joined": str(report.joined),
        "images published alone": str(report.alone),
        "map voxels": str(report.map_voxels),
        "map MB": f"{report.map_mb:.1f}",
        "map age s": f"{report.age_s:.1f}",
        "voxels updated by the last image": str(report.updated),
        "voxels that came into the map before it": str(report.entered),
        "times started anew": str(report.started),
    }
    if report.started_s is not None:
        values["last started anew"] = f"{now_s - report.started_s:.1f} s ago: {report.why_started}"
    if report.alone_s is not None:
        values["last published alone"] = f"{now_s - report.alone_s:.1f} s ago: {report.why_alone}"
    if not wanted:
        return Status(NAME, Level.OK, "off (parameter fusion.enabled)", values)
    if report.alone_s is not None and now_s - report.alone_s <= recent_s:
        message = (
            f"the node published the voxels of {report.alone} images without those of earlier ones, the last "
            f"{now_s - report.alone_s:.1f} s ago: {report.why_alone}"
        )
        return Status(NAME, Level.WARN, message, values)
    if not report.joined:
        return Status(NAME, Level.OK, "waiting for the first image", values)
    return Status(NAME, Level.OK, f"map of {report.age_s:.1f} s, {report.map_mb:.0f} MB", values)


DEPTH = "depth"


@dataclass(frozen=True)
class DepthReport:
    """What a sensor of depth gave to images; times are those of `time.perf_counter`."""

    sensed: int = 0  # images that had depth of the sensor
    without: int = 0  # images that had to do without
    # Of the last `TIMES_KEPT` images that had it: by how many ms it was older, and the share of pixels that it saw.
    last: tuple[tuple[float, float], ...] = ()
    sensed_s: float | None = None  # when the last one was
    why: str = ""  # why the last one without it was
    without_s: float | None = None  # when that was


class DepthRecord(Record[DepthReport]):
    """Written by the inference thread."""

    def __init__(self) -> None:
        super().__init__(DepthReport())

    def sensed(self, age_ms: float, share: float) -> None:
        """An image is completed with what the sensor saw in a share of its pixels (0..1)."""
        last = (*self.report.last, (age_ms, share))[-TIMES_KEPT:]
        self._change(counted="sensed", last=last, sensed_s=time.perf_counter())

    def without(self, why: str) -> None:
        """An image is completed without."""
        self._change(counted="without", why=why, without_s=time.perf_counter())

    def forget(self) -> None:
        """Begin anew."""
        self._change(**vars(DepthReport()))


def depth_status(report: DepthReport, now_s: float, recent_s: float) -> Status:
    """What the sensor contributes; a warning where images of the last `recent_s` seconds all had to do without."""
    values = {"images with depth of the sensor": str(report.sensed), "images without": str(report.without)}
    if report.last:
        age_ms, share = np.median(np.array(report.last), axis=0)
        values |= {"median age ms": f"{age_ms:.1f}", "pixels sensed": f"{100.0 * share:.1f} %"}
    if report.without_s is not None:
        values["last without"] = f"{now_s - report.without_s:.1f} s ago: {report.why}"
        if now_s - report.without_s <= recent_s and (report.sensed_s is None or now_s - report.sensed_s > recent_s):
            return Status(DEPTH, Level.WARN, f"no image has depth of the sensor: {report.why}", values)
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


class ScaleRecord:
    """The scales of cameras by motion; written by one thread, read by others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scales: dict[str, Scale] = {}

    @property
    def scales(self) -> dict[str, Scale]:
        """Those of now, by the names of the cameras."""
        with self._lock:
            return dict(self._scales)

    def set(self, name: str, scale: Scale) -> None:
        """That of a camera from now on."""
        with self._lock:
            self._scales[name] = scale

    def drop(self, name: str) -> None:
        """Nothing is known of a camera."""
        with self._lock:
            self._scales.pop(name, None)

    def forget(self) -> None:
        """Nothing is known of any camera."""
        with self._lock:
            self._scales.clear()


class InferenceRecord:
    """Written by the inference thread. `vocabulary`: what labels mean at first; None for the classes of the bundle."""

    def __init__(self, student: Student, vocabulary: Vocabulary | None = None) -> None:
        self.fusion = FusionRecord()  # what became of the map of earlier images
        self.scale = ScaleRecord()  # by what depths are multiplied
        self.depth = DepthRecord()  # what a sensor of depth gave to images
        self.words = WordsRecord(vocabulary)  # what voxels are compared with
        self.student = student  # whose models are reported
        self.busy_s: Callable[[], float] = lambda: 0.0  # how long its thread has been at its present work, seconds
        self._lock = threading.Lock()
        self._times_ms: deque[Mapping[str, float]] = deque(maxlen=TIMES_KEPT)
        self._result_s: float | None = None

    @property
    def models(self) -> dict[str, ModelReport]:
        """The models of now by the names of their cameras; at least one."""
        return self.student.record.models

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
        self.scale.forget()
        self.depth.forget()

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
    models, times = record.models, record.times()
    values = {
        "student": record.student.title,
        "images completed": str(processed),
        "images that nobody subscribed to": str(unwanted),
    }
    for camera, model in models.items():
        values |= {of_camera("model", camera): model.state, of_camera("engine", camera): model.engine}
    for camera, scale in record.scale.scales.items():
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
    rebuilt = record.student.record.rebuilds(time.perf_counter() - drops.recent_s)
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
