"""What arrives from a camera, as recorded and as judged: images, their CameraInfo, and why there are none.

The cases are those that users meet. Nobody publishes, or another message type, or with incompatible QoS. The middleware
loses large messages without a word. A CameraInfo is missing, late or of another image size.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros.dds import profile_path, profile_variable
from scene_completion_ros.ros.health.judgement import Drops, Level, Status
from scene_completion_ros.ros.messages import stamp_nanoseconds

RATE_WINDOW_S = 10.0
STANDING = 3  # images with the stamp of the one before, from which on stamps stand still
MOST_ARRIVALS = 2000  # kept to tell the rate: 200 Hz through the whole window
# Fast DDS's default shared-memory segment: larger messages do not reach best-effort readers (docs/node.md).
SEGMENT_BYTES = 512 * 1024
STAMP_BEHIND = "seconds by which its stamp is behind the image's"
RECEIVE_BUFFER_BYTES = 67_108_864  # net.core.rmem_max that holds several large images


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

    def age_s(self, now_s: float) -> float | None:
        """Seconds since the last one; None before the first."""
        return None if self.last_s is None else now_s - self.last_s

    def rate_hz(self, now_s: float) -> float:
        """Messages a second, over the last `RATE_WINDOW_S`; 0 of fewer than two."""
        recent = [time_s for time_s in self._recent_s if now_s - time_s <= RATE_WINDOW_S]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])


@dataclass(frozen=True)
class ImageShape:
    """What the newest image looked like."""

    width: int  # pixels; 0 where only decoding tells
    height: int  # pixels; 0 where only decoding tells
    encoding: str  # as the message has it
    bytes: int  # of its pixels or of the compressed file
    frame_id: str


@dataclass(frozen=True)
class Publishers:
    """Who publishes on a topic, from the graph."""

    types: tuple[str, ...] = ()  # message type of each, such as "sensor_msgs/msg/Image"
    best_effort: int = 0  # how many of them offer best effort only


class InputRecord:
    """The record of one camera in one activation; written and read in the executor's thread."""

    def __init__(
        self,
        image_topic: str,  # resolved topic of the images
        image_type: str,  # type asked for, such as "sensor_msgs/msg/Image"
        camera_info_topic: str,  # resolved topic of the CameraInfo
        *,
        reliable: bool,  # reliable images are asked for
        since_s: float,  # when the node subscribed, on the steady clock of all times here
    ) -> None:
        self.image_topic, self.image_type = image_topic, image_type
        self.camera_info_topic, self.reliable, self.since_s = camera_info_topic, reliable, since_s
        self.images, self.camera_infos = Arrivals(), Arrivals()  # of images, and of CameraInfo messages, usable or not
        self.shape: ImageShape | None = None  # the newest image; None before the first
        self.camera: Camera | None = None  # the usable camera of the newest CameraInfo; None before the first
        self.incompatible: dict[str, str] = {}  # by topic, the QoS policy by which a publisher does not match
        self.lost: dict[str, int] = {}  # by topic, how many messages the middleware itself reported as lost

    def image_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/Image or CompressedImage."""
        header = message.header
        self.images.add(now_s, stamp_nanoseconds(header.stamp))
        encoding = getattr(message, "encoding", "") or getattr(message, "format", "")
        size = getattr(message, "width", 0), getattr(message, "height", 0)
        self.shape = ImageShape(*size, encoding, len(message.data), header.frame_id)

    def camera_info_arrived(self, message: Any, now_s: float) -> None:
        """Take note of a sensor_msgs/CameraInfo."""
        self.camera_infos.add(now_s, stamp_nanoseconds(message.header.stamp))


@dataclass(frozen=True)
class CameraFacts:
    """One camera at the moment that it is judged."""

    record: InputRecord
    image_publishers: Publishers  # who publishes images
    camera_info_publishers: Publishers  # who publishes CameraInfo
    now_s: float  # the moment, on the clock of the record
    timeout_s: float  # silence longer than this is a fault
    middleware: str  # name of the RMW implementation

    @property
    def active_s(self) -> float:
        """Seconds since the node subscribed."""
        return self.now_s - self.record.since_s

    def silent_s(self, last_s: float | None) -> float:
        """Seconds without a message, of which the last came at a time."""
        return self.active_s if last_s is None else self.now_s - last_s


def input_status(camera: CameraFacts, received: int, drops: Drops, name: str = "input") -> Status:
    """How images arrive. `received`: images received since the node started."""
    record, now_s = camera.record, camera.now_s
    values = _input_values(camera, received, drops)
    silent_s = camera.silent_s(record.images.last_s)
    if silent_s > camera.timeout_s:
        cause = _cause_of_silence(camera)
        return Status(name, Level.ERROR, f"no image for {silent_s:.1f} s: {cause}", values, cause)
    if record.images.last_s is None:
        return Status(name, Level.OK, f"waiting for the first image on {record.image_topic}", values)
    warnings = _several(record.image_topic, camera.image_publishers)
    if problems := drops.problems(judged_by="input"):
        warnings.append(f"images dropped in the last {drops.recent_s:.0f} s: {problems}; the log explains each")
    if record.images.repeated >= STANDING:
        warnings.append(
            f"stamps stand still: the last {record.images.repeated + 1} images all have {record.images.stamp_ns} ns. "
            "largest_rate goes by arrival, but transforms and sets of images need stamps: have the driver set them"
        )
    if record.shape is not None and not record.shape.frame_id.strip("/"):
        warnings.append("header.frame_id of the images is empty, so that tf cannot place them: set it in the driver")
    if lost := record.lost.get(record.image_topic, 0):
        warnings.append(f"the middleware lost {lost} images since activation: {_cure_of_loss(camera)}")
    if warnings:
        return Status(name, Level.WARN, "; ".join(warnings), values)
    return Status(name, Level.OK, f"{record.images.rate_hz(now_s):.1f} images/s", values)


def calibration_status(
    camera: CameraFacts, drops: Drops, warnings: tuple[str, ...], name: str = "calibration"
) -> Status:
    """Whether the CameraInfo is there, recent, and fits; `warnings`: how it differs from the student's training."""
    record, topic = camera.record, camera.record.camera_info_topic
    values = _calibration_values(camera)
    silent_s = camera.silent_s(record.camera_infos.last_s)
    if record.camera is None:
        return _no_camera(camera, silent_s, values, name)
    several = _several(topic, camera.camera_info_publishers)
    problems = drops.problems(DropReason.BAD_CAMERA_INFO)
    if problems:
        message = f"dropped in the last {drops.recent_s:.0f} s: {problems}; the last usable CameraInfo stays in use"
        return Status(name, Level.WARN, "; ".join([*several, message]), values)
    unmatched = drops.problems(DropReason.NO_MATCHING_CAMERA_INFO)
    if unmatched:
        behind = f"; the last one is {values[STAMP_BEHIND]} s behind the last image" if STAMP_BEHIND in values else ""
        message = (
            f"images dropped in the last {drops.recent_s:.0f} s: {unmatched}{behind}: make the driver stamp both "
            "alike, allow more with sync.tolerance or sync.timeout, or set sync.camera_info:=latest"
        )
        return Status(name, Level.WARN, message, values)
    size = record.camera.width, record.camera.height
    shape = record.shape
    if shape is not None and not _proportions_fit(record):
        message = (
            f"images are {shape.width}x{shape.height}, but {topic} is for {size[0]}x{size[1]}: scale both or neither, "
            "write a crop into its roi, or remap camera_info to the calibration of this image"
        )
        return Status(name, Level.ERROR, message, values)
    image_silent_s = camera.silent_s(record.images.last_s)
    if record.camera_infos.count > 1 and silent_s > camera.timeout_s >= image_silent_s:
        message = f"CameraInfo stopped {silent_s:.1f} s ago, images go on: the node completes them with the last one; "
        return Status(name, Level.WARN, f"{message}check the driver (ros2 topic hz {topic})", values)
    if several or warnings:
        return Status(name, Level.WARN, "; ".join([*several, *warnings]), values)
    fx = record.camera.fx
    return Status(name, Level.OK, f"{size[0]}x{size[1]}, fx {fx:.1f} px, as the student knows it", values)


def _proportions_fit(record: InputRecord) -> bool:
    """Whether the newest image is of the calibrated size or was resized from it, as far as is known."""
    if record.camera is None or record.shape is None or not record.shape.width:
        return True
    try:
        record.camera.of_resized_image(record.shape.width, record.shape.height)
    except CameraError:
        return False
    return True


def _no_camera(camera: CameraFacts, silent_s: float, values: dict[str, str], name: str) -> Status:
    record, topic = camera.record, camera.record.camera_info_topic
    if record.camera_infos.count:
        message = f"no message on {topic} was usable: calibrate the camera; the log says what is wrong"
        return Status(name, Level.ERROR, message, values)
    if silent_s <= camera.timeout_s:
        return Status(name, Level.OK, f"waiting for CameraInfo on {topic}", values)
    count = len(camera.camera_info_publishers.types)
    if not count:
        cure = f"nobody publishes on {topic}: start the driver's, or remap it (-r camera_info:=<topic>)"
    elif topic in record.incompatible:
        cure = f"its publisher's {record.incompatible[topic]} does not match a best-effort, volatile reader: change it"
    else:
        cure = f"{_publishers(count)} on {topic}, but nothing arrives: a CameraInfo sent only once must be latched"
    message = f"CameraInfo is missing for {silent_s:.1f} s, and without it the node completes no image: {cure}"
    return Status(name, Level.ERROR, message, values, cure)


def _cause_of_silence(camera: CameraFacts) -> str:
    record, publishers = camera.record, camera.image_publishers
    topic = record.image_topic
    if not publishers.types:
        return f"nobody publishes on {topic}: start the camera, or remap it (-r image:=<topic>; ros2 topic list -t)"
    if record.image_type not in publishers.types:
        cure = "set image.transport:=compressed" if "Compressed" in publishers.types[0] else "remap another topic"
        return f"{topic} carries {publishers.types[0]}, not {record.image_type}: {cure}"
    if topic in record.incompatible:
        return _incompatible(camera)
    count = len(publishers.types)
    either = f"Either none is sent (ros2 topic hz {topic}), or they are lost on the way"
    return f"{_publishers(count)} on {topic}, but nothing arrives. {either}: {_cure_of_loss(camera)}"


def _cure_of_loss(camera: CameraFacts) -> str:
    """What helps where the middleware loses images without a word."""
    record, publishers = camera.record, camera.image_publishers
    size = _expected_bytes(record)
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


def _incompatible(camera: CameraFacts) -> str:
    record = camera.record
    asked = "reliable" if record.reliable else "best effort"
    text = f"the QoS of the publisher on {record.image_topic} does not match the {asked} subscription"
    cure = "set image.qos:=sensor_data" if record.reliable else "change the publisher's QoS"
    return f"{text} ({record.incompatible[record.image_topic]}): {cure}"


def _expected_bytes(record: InputRecord) -> int:
    """Bytes of a raw colour image, as far as the newest image or the CameraInfo tells; else 0."""
    if record.shape is not None:
        return record.shape.bytes
    if record.camera is not None and "Compressed" not in record.image_type:
        return 3 * record.camera.width * record.camera.height
    return 0


def _several(topic: str, publishers: Publishers) -> list[str]:
    """A sentence where more than one publishes, whose messages the node cannot tell apart."""
    count = len(publishers.types)
    problem = f"{count} publishers exist on {topic}, which the node takes for one camera: end or remap all but one"
    return [problem] if count > 1 else []


def _publishers(count: int) -> str:
    return "1 publisher exists" if count == 1 else f"{count} publishers exist"


def _input_values(camera: CameraFacts, received: int, drops: Drops) -> dict[str, str]:
    record, shape = camera.record, camera.record.shape
    age_s = record.images.age_s(camera.now_s)
    values = {
        "topic": record.image_topic,
        "type": record.image_type,
        "reliability asked for": "reliable" if record.reliable else "best effort",
        "publishers": str(len(camera.image_publishers.types)),
        "best-effort publishers": str(camera.image_publishers.best_effort),
        "images received": str(received),
        "images received since activation": str(record.images.count),
        "images/s": f"{record.images.rate_hz(camera.now_s):.2f}",
        "seconds since the last image": "none yet" if age_s is None else f"{age_s:.2f}",
        "lost by the middleware": str(record.lost.get(record.image_topic, 0)),
        "middleware": camera.middleware,
    }
    if shape is not None:
        values["image"] = f"{shape.width}x{shape.height} {shape.encoding}, {shape.bytes} bytes, frame {shape.frame_id}"
    values["dropped"] = str(sum(drops.total.values()))
    values |= {f"dropped: {reason}": str(count) for reason, count in sorted(drops.total.items())}
    for reason, count in sorted(drops.recent.items()):
        if count:
            values[f"dropped in the last {drops.recent_s:.0f} s: {reason}"] = str(count)
    return values


def _calibration_values(camera: CameraFacts) -> dict[str, str]:
    record, used = camera.record, camera.record.camera
    age_s = record.camera_infos.age_s(camera.now_s)
    values = {
        "topic": record.camera_info_topic,
        "publishers": str(len(camera.camera_info_publishers.types)),
        "CameraInfo received since activation": str(record.camera_infos.count),
        "CameraInfo/s": f"{record.camera_infos.rate_hz(camera.now_s):.2f}",
        "seconds since the last CameraInfo": "none yet" if age_s is None else f"{age_s:.2f}",
    }
    if used is not None:
        values["camera"] = (
            f"{used.width}x{used.height}, fx {used.fx:.2f}, fy {used.fy:.2f}, cx {used.cx:.2f}, cy {used.cy:.2f}, "
            f"{used.distortion_model}"
        )
    if record.images.stamp_ns is not None and record.camera_infos.stamp_ns is not None:
        values[STAMP_BEHIND] = f"{(record.images.stamp_ns - record.camera_infos.stamp_ns) / 1e9:.3f}"
    return values
