"""`/diagnostics`: what the node records of itself, judged and published about once a second, in every state.

The cases of a camera's messages are those that users meet. There is no publisher, or one of another message type, or
with incompatible QoS. The middleware loses large messages without notice. A CameraInfo is missing, late or of another
image size.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.qos import ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier

from scene_completion_ros.errors import CameraError, in_words
from scene_completion_ros.geometry.cameras import LARGEST_MOVE, Camera
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.jit import COMPILING, compilation
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.plain_text import printable
from scene_completion_ros.ros.dds import profile_path, profile_variable
from scene_completion_ros.ros.frame import Student
from scene_completion_ros.ros.health import judgement
from scene_completion_ros.ros.health.judgement import Counts, Drops, Event, Level, Record, Status, idle_status
from scene_completion_ros.ros.messages import stamp_nanoseconds
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.topics import DIAGNOSTICS

PERIOD_S = 1.0
RATE_WINDOW_S = 10.0
LONGEST_SILENCE_S = 2.0  # without an image, or without CameraInfo, after which that is an error
STANDING = 3  # images with the stamp of the one before, from which on stamps stand still
MOST_ARRIVALS = 2000  # kept for the rate: 200 Hz through the whole window
# Fast DDS's default shared-memory segment: larger messages do not reach best-effort readers (docs/node.md).
SEGMENT_BYTES = 512 * 1024
RECEIVE_BUFFER_BYTES = 67_108_864  # net.core.rmem_max that holds several large images
BUSY = "the node builds its model, or was held up, and may not have received them: it judges that afterwards"


class Arrivals:
    """When messages of one topic arrived, on a steady clock."""

    def __init__(self) -> None:
        self.count = 0  # how many arrived
        self.last_s: float | None = None  # when the last one did; None before the first
        self.stamp_ns: int | None = None  # its stamp, nanoseconds
        self.repeated = 0  # how many before it had the same one, without another between
        self._recent_s: deque[float] = deque(maxlen=MOST_ARRIVALS)

    def add(self, now_s: float, stamp_ns: int) -> None:
        """One arrived now."""
        self.count += 1
        self.repeated = self.repeated + 1 if stamp_ns == self.stamp_ns else 0
        self.last_s, self.stamp_ns = now_s, stamp_ns
        self._recent_s.append(now_s)

    def rate_hz(self, now_s: float) -> float:
        """Messages a second, over the last `RATE_WINDOW_S`; 0 of fewer than two."""
        recent = [time_s for time_s in self._recent_s if now_s - time_s <= RATE_WINDOW_S]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


class ImageShape(NamedTuple):
    """Size and kind of the newest image."""

    width: int  # pixels, as height; 0 where only decoding tells
    height: int
    encoding: str  # as the message has it
    bytes: int  # of its pixels or of the compressed file
    frame_id: str


@dataclass(frozen=True)
class Publishers:
    """Who publishes on a topic, from the graph."""

    types: tuple[str, ...] = ()  # message type of each, such as "sensor_msgs/msg/Image"
    best_effort: int = 0  # how many of them offer best effort only


class OwnWork:
    """When the node kept itself from receiving: it built a model, or something held its executor up."""

    def __init__(self, now_s: float) -> None:
        self.took_s, self.until_s = 0.0, -math.inf  # how long in all, and when it was last seen to be so
        self.lost = 0  # images that the middleware lost meanwhile
        self._looked_s, self._lost = now_s, 0

    def look(self, now_s: float, lost: int, *, building: bool) -> None:
        """Look at it, which is done once a period, unless the executor is late; `lost`: images lost in all."""
        if building or now_s - self._looked_s > 2.0 * PERIOD_S:
            self.took_s, self.until_s = self.took_s + now_s - self._looked_s, now_s
        if self.recent(now_s):  # what the middleware tells may be read after this
            self.lost += lost - self._lost
        self._looked_s, self._lost = now_s, lost

    def recent(self, now_s: float) -> bool:
        """Tell if the node itself may not have received what came lately."""
        return now_s - self.until_s <= LONGEST_SILENCE_S


class InputRecord:
    """The record of the camera in one activation; written and read in the executor's thread."""

    def __init__(
        self,
        image_topic: str,  # resolved topic of the images
        image_type: str,  # type of the subscription, such as "sensor_msgs/msg/Image"
        camera_info_topic: str,  # resolved topic of the CameraInfo
        *,
        reliable: bool,  # whether the subscription is reliable
        since_s: float,  # when the node subscribed, on the steady clock of all times here
    ) -> None:
        self.image_topic, self.image_type = image_topic, image_type
        self.camera_info_topic, self.reliable, self.since_s = camera_info_topic, reliable, since_s
        self.images, self.camera_infos = Arrivals(), Arrivals()  # of images, and of CameraInfo messages, usable or not
        self.shape: ImageShape | None = None  # the newest image; None before the first
        self.camera: Camera | None = None  # the usable camera of the newest CameraInfo; None before the first
        self.doubts: tuple[str, ...] = ()  # what speaks against its calibration
        self.variation: tuple[str, ...] = ()  # by how much later ones differ from it that were not taken
        self.incompatible = ""  # the QoS policy by which a publisher of images does not match
        self.placement_doubts: Callable[[], list[str]] = list  # what is doubtful about how the camera stands and moves
        self.lost = 0  # how many images the middleware itself reported as lost
        self.own_work = OwnWork(since_s)

    def image_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/Image or CompressedImage."""
        header = message.header
        self.images.add(now_s, stamp_nanoseconds(header.stamp))
        encoding = getattr(message, "encoding", "") or getattr(message, "format", "")
        size = getattr(message, "width", 0), getattr(message, "height", 0)
        self.shape = ImageShape(*size, encoding, len(message.data), header.frame_id)

    def header_problems(self) -> list[str]:
        """List what the headers of the last images lack."""
        found, images = [], self.images
        if images.repeated >= STANDING:
            found.append(
                f"stamps stand still: the last {images.repeated + 1} images all have {images.stamp_ns} ns. Transforms "
                "need stamps: have the driver set them"
            )
        if self.shape is not None and not self.shape.frame_id.strip("/"):
            found.append("header.frame_id of the images is empty, so that tf cannot place them: set it in the driver")
        return found

    def camera_info_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/CameraInfo."""
        self.camera_infos.add(now_s, stamp_nanoseconds(message.header.stamp))


@dataclass(frozen=True)
class CameraFacts:
    """The camera at the moment that it is judged."""

    record: InputRecord
    image_publishers: Publishers  # who publishes images
    camera_info_publishers: Publishers  # who publishes CameraInfo
    now_s: float  # the moment, on the clock of the record
    middleware: str  # name of the RMW implementation

    def silent_s(self, arrivals: Arrivals) -> float:
        """Seconds since the last message, or since the node subscribed."""
        return self.now_s - (self.record.since_s if arrivals.last_s is None else arrivals.last_s)


def input_status(camera: CameraFacts, received: int, drops: Drops) -> Status:
    """How images arrive. `received`: images received since the node started."""
    record, shape, rate_hz = camera.record, camera.record.shape, camera.record.images.rate_hz(camera.now_s)
    values = {
        "topic": record.image_topic,
        "type": record.image_type,
        "publishers": str(len(camera.image_publishers.types)),
        "images received": str(received),
        "images/s": f"{rate_hz:.2f}",
    }
    if shape is not None:
        values["image"] = f"{shape.width}x{shape.height} {shape.encoding}, {shape.bytes} bytes, frame {shape.frame_id}"
    if (own := record.own_work).lost:
        values["images lost by the node"] = f"{own.lost}, while it built its model or was held up ({own.took_s:.1f} s)"
    values["dropped"] = str(sum(drops.total.values()))
    values |= {f"dropped: {reason}": str(count) for reason, count in sorted(drops.total.items())}
    silent_s = camera.silent_s(record.images)
    if silent_s > LONGEST_SILENCE_S:
        cause = _cause_of_silence(camera)
        level = Level.OK if cause == BUSY else Level.ERROR
        return Status("input", level, f"no image for {silent_s:.1f} s: {cause}", values, cause)
    if record.images.last_s is None:
        return Status("input", Level.OK, f"waiting for the first image on {record.image_topic}", values)
    warnings = _several(record.image_topic, camera.image_publishers)
    if problems := drops.problems(judged_by="input"):
        warnings.append(f"images dropped in the last {drops.recent_s:.0f} s: {problems}; the log explains each")
    warnings += record.header_problems()
    warnings += record.placement_doubts()
    if lost := record.lost - own.lost:
        warnings.append(f"the middleware lost {lost} images since activation: {_cure_of_loss(camera)}")
    if warnings:
        return Status("input", Level.WARN, "; ".join(warnings), values)
    return Status("input", Level.OK, f"{rate_hz:.1f} images/s", values)


def calibration_status(camera: CameraFacts, drops: Drops, warnings: tuple[str, ...]) -> Status:
    """Whether the CameraInfo is there, recent, and fits; `warnings`: how it differs from the student's training."""
    record, topic, used = camera.record, camera.record.camera_info_topic, camera.record.camera
    values = {"topic": topic, "CameraInfo received since activation": str(record.camera_infos.count)}
    if used is not None:
        values["camera"] = (
            f"{used.width}x{used.height}, fx {used.fx:.2f}, fy {used.fy:.2f}, cx {used.cx:.2f}, cy {used.cy:.2f}, "
            f"{used.distortion_model}"
        )
    silent_s = camera.silent_s(record.camera_infos)
    if used is None:
        return _no_camera(camera, silent_s, values)
    several = _several(topic, camera.camera_info_publishers)
    warnings = (*record.doubts, *record.variation, *warnings)
    problems = drops.problems(DropReason.BAD_CAMERA_INFO)
    if problems:
        message = f"dropped in the last {drops.recent_s:.0f} s: {problems}; the last usable CameraInfo stays in use"
        return Status("calibration", Level.WARN, "; ".join([*several, message]), values)
    size, shape = (used.width, used.height), record.shape
    if shape is not None and not _proportions_fit(used, shape):
        message = (
            f"images are {shape.width}x{shape.height}, but {topic} is for {size[0]}x{size[1]}: scale both or neither, "
            "write a crop into its roi, or remap camera_info to the calibration of this image"
        )
        return Status("calibration", Level.ERROR, message, values)
    stopped = record.camera_infos.count > 1 and silent_s > LONGEST_SILENCE_S >= camera.silent_s(record.images)
    if stopped and not record.own_work.recent(camera.now_s):
        message = f"CameraInfo stopped {silent_s:.1f} s ago, images go on: the node completes them with the last one; "
        return Status("calibration", Level.WARN, f"{message}check the driver (ros2 topic hz {topic})", values)
    if several or warnings:
        return Status("calibration", Level.WARN, "; ".join([*several, *warnings]), values)
    return Status("calibration", Level.OK, f"{size[0]}x{size[1]}, fx {used.fx:.1f} px, as the student knows it", values)


def _proportions_fit(camera: Camera, shape: ImageShape) -> bool:
    """Whether an image is of the calibrated size or was resized from it, as far as is known."""
    try:
        return not shape.width or bool(camera.of_resized_image(shape.width, shape.height))
    except CameraError:
        return False


def _no_camera(camera: CameraFacts, silent_s: float, values: dict[str, str]) -> Status:
    record, topic = camera.record, camera.record.camera_info_topic
    if record.camera_infos.count:
        message = f"no message on {topic} was usable: calibrate the camera; the log has the reason"
        return Status("calibration", Level.ERROR, message, values)
    if silent_s <= LONGEST_SILENCE_S:
        return Status("calibration", Level.OK, f"waiting for CameraInfo on {topic}", values)
    count = len(camera.camera_info_publishers.types)
    if not count:
        cure = f"no publisher on {topic}: start the driver's, or remap it (-r camera_info:=<topic>)"
    else:
        cure = f"{_publishers(count)} on {topic}, but nothing arrives: a CameraInfo sent only once must be latched"
    message = f"CameraInfo is missing for {silent_s:.1f} s, and without it the node completes no image: {cure}"
    return Status("calibration", Level.ERROR, message, values, cure)


def _cause_of_silence(camera: CameraFacts) -> str:
    record, publishers = camera.record, camera.image_publishers
    topic = record.image_topic
    if not publishers.types:
        return f"no publisher on {topic}: start the camera, or remap it (-r image:=<topic>; ros2 topic list -t)"
    if record.image_type not in publishers.types:
        cure = "set image.transport:=compressed" if "Compressed" in publishers.types[0] else "remap another topic"
        return f"{topic} carries {publishers.types[0]}, not {record.image_type}: {cure}"
    if record.incompatible:  # which no best-effort, volatile subscription is
        what = f"the QoS of the publisher on {topic} does not match the reliable subscription"
        return f"{what} ({record.incompatible}): set image.qos:=sensor_data"
    if record.own_work.recent(camera.now_s):
        return BUSY
    count = len(publishers.types)
    either = f"Either none is sent (ros2 topic hz {topic}), or they are lost on the way"
    return f"{_publishers(count)} on {topic}, but nothing arrives. {either}: {_cure_of_loss(camera)}"


def _cure_of_loss(camera: CameraFacts) -> str:
    """What helps where the middleware loses images without a word."""
    record, publishers = camera.record, camera.image_publishers
    shape, info = record.shape, record.camera
    size = 0  # of a raw colour image, by the newest one or the CameraInfo
    if shape is not None:
        size = shape.bytes
    elif info is not None and "Compressed" not in record.image_type:
        size = 3 * info.width * info.height
    cures = []
    if "fastrtps" in camera.middleware:
        large = f" (these have {size / 1e6:.1f} MB)" if size > SEGMENT_BYTES else ""
        cures.append(
            f"Fast DDS loses best-effort messages above 0.5 MB{large} unless the process that publishes them has "
            f"{profile_variable()}={profile_path()}"
        )
    if not record.reliable and not publishers.best_effort:
        cures.append("set image.qos:=reliable")
    if "Compressed" not in record.image_type:
        cures.append("send compressed images and set image.transport:=compressed")
    cures.append(f"between machines also: sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}")
    return "; or ".join(cures)


def _several(topic: str, publishers: Publishers) -> list[str]:
    """A sentence where there are several publishers, whose messages the node cannot distinguish."""
    count = len(publishers.types)
    problem = f"{count} publishers exist on {topic}, which the node takes for one camera: end or remap all but one"
    return [problem] if count > 1 else []


def _publishers(count: int) -> str:
    return "1 publisher exists" if count == 1 else f"{count} publishers exist"


TIMES_KEPT = 100  # images over which times are summed up
LONGEST_WORK_S = 20.0  # seconds for a model or an image, after which it is a warning


@dataclass(frozen=True)
class WordsReport:
    """What voxels are compared with."""

    classes: tuple[str, ...] = ()  # names of the vocabulary's classes; empty where labels are those of the bundle
    phrases: tuple[str, ...] = ()  # what is looked for
    refused: Event = Event()  # a vocabulary or a query could not be used
    asked: bool = False  # there was a vocabulary or a query


def words_status(report: WordsReport, now_s: float, recent_s: float) -> Status:
    """What voxels are compared with, and what was refused in the last `recent_s` s; `now_s`: by `time.perf_counter`."""
    last = report.refused.values("last refused", now_s)
    values = {
        "classes": ", ".join(report.classes) or "those of the bundle",
        "looked for": ", ".join(report.phrases),
        "refused": str(report.refused.count),
        **last,
    }
    if report.refused.recent(now_s, recent_s):
        return Status("vocabulary", Level.WARN, f"refused {last['last refused']}", values)
    named = f"{len(report.classes)} classes of a vocabulary" if report.classes else "the labels of the bundle"
    return Status("vocabulary", Level.OK, f"{named}, {len(report.phrases)} phrases looked for", values)


class InferenceRecord:
    """Written by the inference thread. `vocabulary`: what labels mean at first; None for the classes of the bundle."""

    def __init__(self, student: Student, vocabulary: Vocabulary | None = None) -> None:
        self.scale: Scale | None = None  # by what depths are multiplied
        at_first = WordsReport() if vocabulary is None else WordsReport(vocabulary.names, asked=True)
        self.words = Record(at_first)  # what voxels are compared with
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
        """An image was completed and published, in these times by stage."""
        with self._lock:
            self._result_s = time.perf_counter()
            self._times_ms.append(dict(times_ms))

    def times(self) -> dict[str, NDArray[np.float64]]:
        """Milliseconds of the last `TIMES_KEPT` images by stage; empty where no image was completed."""
        with self._lock:
            rows = list(self._times_ms)
        return {stage: np.array([row[stage] for row in rows if stage in row]) for stage in (rows[-1] if rows else ())}


def inference_status(record: InferenceRecord, drops: Drops, *, processed: int, unwanted: int) -> Status:
    """The model, and how long images take. `processed`: images completed since the node started."""
    model, scale, times = record.student.model, record.scale, record.times()
    values = {
        "student": record.student.title,
        "images completed": str(processed),
        "images without subscribers": str(unwanted),
        "model": model.state,
        "engine": model.engine,
    }
    if scale is not None:
        values["scale by motion"] = scale.described()
    for stage, time_ms in times.items():
        p95 = np.percentile(time_ms, 95)
        values[f"{stage} ms"] = f"mean {time_ms.mean():.2f}, p95 {p95:.2f}, max {time_ms.max():.2f}"
    problems = drops.problems(judged_by="inference")
    if model.error:
        message = f"images of this camera cannot be completed: {model.error}"
        return Status("inference", Level.ERROR, message, values)
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
    slowest = [f"{stage} {times[stage].mean():.1f} ms" for stage in ("latency", "total") if stage in times]
    kernels = [f"{COMPILING.lower()}, once ({compilation.compiled} are done)"] if compilation.running else []
    message = ", ".join([model.state, *kernels, *slowest])
    if (busy_s := record.busy_s()) > LONGEST_WORK_S:
        message = f"nothing has come of {record.student.title} for {busy_s:.0f} s: {message}"
        return Status("inference", Level.WARN, message, values)
    return Status("inference", Level.OK, message, values)


DROPS_WINDOW_S = 10.0
LOGGED = ("input", "calibration")  # faults of which nothing else writes a line


@dataclass(frozen=True)
class Observed:
    """What is judged: the node of one moment."""

    state: str  # label of its state, such as "active"
    problem: str  # why the last transition failed; empty where it did not
    parameters: NodeParameters  # the values of that moment
    counts: Counts  # what became of the images
    input: InputRecord | None = None  # what arrived; None unless active
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
        except Exception as error:  # diagnostics must not end the node
            self._warn("diagnostics", f"the node could not publish diagnostics: {in_words(error)}")

    def publish(self) -> None:
        """Publish the statuses of now, and log faults that have just begun or ended."""
        stamp = self._node.get_clock().now().to_msg()  # all that was counted until then is counted
        observed = self._observe()
        statuses = [status.printable() for status in self.statuses(observed)]
        self._log_changes(statuses)
        shape = None if observed.input is None else observed.input.shape
        hardware_id = "camera" if shape is None else shape.frame_id or "camera"
        array = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=bytes([status.level]),
                    name=f"{self._prefix}: {status.name}",
                    message=status.message,
                    hardware_id=printable(hardware_id),
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
        found = [judgement.lifecycle_status(observed.state, observed.problem)]
        found += self._of_input(observed, drops, now_s)
        if record is None:
            found += [idle_status(name, observed.state) for name in ("inference", "outputs")]
        else:
            found.append(inference_status(record, drops, processed=counts.processed, unwanted=counts.unwanted))
            found.append(judgement.outputs_status(observed.subscribers, counts.warned, record.result_age_s(now_s)))
        if record is not None and (record.words.report.asked or record.words.report.refused.count):
            found.append(words_status(record.words.report, now_s, DROPS_WINDOW_S))
        return found

    def _of_input(self, observed: Observed, drops: Drops, now_s: float) -> list[Status]:
        record, inference = observed.input, observed.inference
        if record is None or inference is None:
            return [idle_status(name, observed.state) for name in ("input", "calibration")]
        record.own_work.look(now_s, record.lost, building=inference.student.model.state == "building")
        image, info = self._publishers(record.image_topic), self._publishers(record.camera_info_topic)
        camera = CameraFacts(record, image, info, now_s, self._middleware)
        return [
            input_status(camera, observed.counts.received, drops),
            calibration_status(camera, drops, inference.student.model.warnings),
        ]

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
            if status.name not in LOGGED or status.cause == BUSY:
                continue
            before = self._faults.pop(status.name, None)
            if status.level == Level.ERROR:
                fault = self._faults[status.name] = status.cause or status.message
                if fault != before:
                    self._node.get_logger().error(f"{status.name}: {status.message}")
            elif before is not None:
                self._node.get_logger().info(f"{status.name}: in order again: {status.message}")
