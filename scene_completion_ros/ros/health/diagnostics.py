"""`/diagnostics`: what the node records of itself, judged and published about once a second, in every state."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.qos import ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier

from scene_completion_ros.errors import in_words
from scene_completion_ros.geometry.cameras import LARGEST_MOVE
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.removed import REMOVED, removed
from scene_completion_ros.ros.frame import ModelReport, Student
from scene_completion_ros.ros.health.input_health import (
    CameraFacts,
    InputRecord,
    Publishers,
    calibration_status,
    input_status,
)
from scene_completion_ros.ros.health.judgement import (
    Counts,
    Drops,
    Event,
    Level,
    Record,
    Status,
    idle_status,
    lifecycle_status,
    memory_status,
    of_camera,
    outputs_status,
    removed_status,
)
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.topics import DIAGNOSTICS

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


FUSION = "fusion"


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
        return Status(FUSION, Level.OK, "off (parameter fusion.enabled)", values)
    if report.alone.recent(now_s, recent_s):
        message = (
            f"the node published the voxels of {report.alone.count} images without those of earlier ones, the last "
            f"{alone['last published alone']}"
        )
        return Status(FUSION, Level.WARN, message, values)
    if not report.joined:
        return Status(FUSION, Level.OK, "waiting for the first image", values)
    return Status(FUSION, Level.OK, f"map of {report.age_s:.1f} s, {report.map_mb:.0f} MB", values)


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


# `/diagnostics`: what the node records of itself, judged and published about once a second, in every state.


PERIOD_S = 1.0
DROPS_WINDOW_S = 10.0
LOGGED = ("input", "calibration")  # faults of which nothing else writes a line


@dataclass(frozen=True)
class Observed:
    """What is judged: the node of one moment."""

    state: str  # label of its state, such as "active"
    problem: str  # why the last transition failed; empty where it did not
    enabled: bool  # images are completed, as far as `~/set_enabled` is concerned
    parameters: NodeParameters  # the values of that moment
    counts: Counts  # what became of the images
    # What arrived, by the name of the camera; nothing unless active.
    inputs: Mapping[str, InputRecord] = field(default_factory=dict)
    inference: InferenceRecord | None = None  # what the inference thread did; None while unconfigured
    subscribers: Mapping[str, int] = field(default_factory=dict)  # number of subscribers of each result, by topic


class Diagnostics:
    """Publishes diagnostics from a timer on a steady clock, so that they go on while simulated time stands still.

    Lives as long as its node. Names are "<node>: <part>", as diagnostic_aggregator's analyzers match them; a node in a
    namespace has it before its name, without the leading slash. `observe`: gives the node of now; `warn`: called with a
    key and a text where something went wrong here.
    """

    def __init__(self, node: Any, observe: Callable[[], Observed], warn: Callable[[str, str], None]) -> None:
        self._node, self._observe, self._warn = node, observe, warn
        self._prefix = node.get_fully_qualified_name().lstrip("/")
        self._middleware = get_rmw_implementation_identifier()
        self._faults: dict[str, str] = {}
        self._drops: deque[tuple[float, Counter[DropReason]]] = deque()
        self._publisher = node.create_publisher(DiagnosticArray, DIAGNOSTICS, 1)
        self._timer = node.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_timer(self) -> None:
        try:
            self.publish()
        except Exception as error:  # what only looks at the node must not end it
            self._warn("diagnostics", f"the node could not publish diagnostics: {in_words(error)}")

    def publish(self) -> None:
        """Publish the statuses of now, and log faults that have just begun or ended."""
        stamp = self._node.get_clock().now().to_msg()  # all that was counted until then is counted
        observed = self._observe()
        statuses = self.statuses(observed)
        self._log_changes(statuses)
        frames = [record.shape.frame_id for record in observed.inputs.values() if record.shape is not None]
        hardware_id = ", ".join(filter(None, frames)) or "camera"
        array = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=bytes([status.level]),
                    name=f"{self._prefix}: {status.name}",
                    message=status.message,
                    hardware_id=hardware_id,
                    values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
                )
                for status in statuses
            ]
        )
        array.header.stamp = stamp
        self._publisher.publish(array)

    def statuses(self, observed: Observed) -> list[Status]:
        """One status a part."""
        now_s, counts, record = time.perf_counter(), observed.counts, observed.inference
        drops = self._recent(counts, now_s)
        found = [lifecycle_status(observed.state, observed.problem, enabled=observed.enabled)]
        found += self._of_input(observed, drops, now_s)
        if record is None:
            found += [idle_status(name, observed.state) for name in ("inference", "outputs")]
        else:
            found.append(inference_status(record, drops, processed=counts.processed, unwanted=counts.unwanted))
            found.append(outputs_status(observed.subscribers, counts.warned, record.result_age_s(now_s)))
        found += _of_fusion(observed, now_s)
        if record is not None and observed.parameters.depth_from == "topic":
            found.append(depth_status(record.depth.report, now_s, DROPS_WINDOW_S))
        if record is not None and record.words.report != WordsReport():  # somebody wanted something
            found.append(words_status(record.words.report, now_s, DROPS_WINDOW_S))
        if awaited := self._removed_but_awaited():
            found.append(removed_status(awaited))
        return [*found, memory_status()]

    def _removed_but_awaited(self) -> list[str]:
        """Sentences about topics and services of earlier versions, on which other nodes wait."""
        topics = [name for name in REMOVED["topic"] if self._node.count_subscribers(name)]
        count = getattr(self._node, "count_clients", None)  # Humble cannot
        services = [name for name in REMOVED["service"] if count and count(name)]
        found = [removed("topic", name) for name in topics] + [removed("service", name) for name in services]
        return [sentence for sentence in found if sentence]

    def _of_input(self, observed: Observed, drops: Drops, now_s: float) -> list[Status]:
        inference = observed.inference
        if not observed.inputs or inference is None:
            return [idle_status(name, observed.state) for name in ("input", "calibration")]
        found = []
        for name, record in observed.inputs.items():
            image, info = self._publishers(record.image_topic), self._publishers(record.camera_info_topic)
            camera = CameraFacts(record, image, info, now_s, observed.parameters.image_timeout, self._middleware)
            status = input_status(camera, observed.counts.received, drops, of_camera("input", name))
            if name:
                missing = str(observed.counts.missing.get(name, 0))
                status = replace(status, values={**status.values, "sets completed without it": missing})
            found.append(status)
            warnings = inference.student.models.get(name, ModelReport()).warnings
            found.append(calibration_status(camera, drops, warnings, of_camera("calibration", name)))
        return found

    def _publishers(self, topic: str) -> Publishers:
        found = self._node.get_publishers_info_by_topic(topic)
        best_effort = [info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in found]
        return Publishers(tuple(info.topic_type for info in found), sum(best_effort))

    def _recent(self, counts: Counts, now_s: float) -> Drops:
        """Drops in all and of the last seconds; to be called once a period."""
        total = Counter(counts.dropped)
        self._drops.append((now_s, total))
        while len(self._drops) > 1 and now_s - self._drops[0][0] > DROPS_WINDOW_S:
            self._drops.popleft()
        return Drops(total, total - self._drops[0][1], DROPS_WINDOW_S)

    def _log_changes(self, statuses: list[Status]) -> None:
        for status in statuses:
            if not status.name.startswith(LOGGED):
                continue
            before = self._faults.pop(status.name, None)
            if status.level == Level.ERROR:
                fault = self._faults[status.name] = status.cause or status.message
                if fault != before:
                    self._node.get_logger().error(f"{status.name}: {status.message}")
            elif before is not None:
                self._node.get_logger().info(f"{status.name}: in order again: {status.message}")


def _of_fusion(observed: Observed, now_s: float) -> list[Status]:
    """Nothing where nobody ever wanted it."""
    record, wanted = observed.inference, observed.parameters.fusion_enabled
    if record is None:
        return [idle_status(FUSION, observed.state)] if wanted else []
    report = record.fusion.report
    if not wanted and report == FusionReport():
        return []
    return [fusion_status(report, now_s, DROPS_WINDOW_S, wanted=wanted)]
