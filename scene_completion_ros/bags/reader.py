"""`BagReader`: messages, images, cameras, transforms and point clouds of rosbag2 and ROS 1 recordings.

What is damaged or has no index is refused, with the tool that repairs it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.storage import FOREIGN_CURE, Storage, current_type, damaged, open_storage
from scene_completion_ros.errors import BagError, CameraError, SceneCompletionError, TransformConflictError
from scene_completion_ros.geometry.camera_info import camera_from_camera_info, is_rectified_topic
from scene_completion_ros.geometry.cameras import LARGEST_MOVE, Camera
from scene_completion_ros.geometry.plausible_cameras import Doubt, varies_too_much
from scene_completion_ros.messages.images import announced_size, decode_image, read_xyz
from scene_completion_ros.messages.transform_buffer import TransformBuffer, stamp_of

DEMO_DRIVE = Path(__file__).resolve().parents[1] / "demo_drive"  # a rosbag2 of camera images and calibration

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
TRANSFORM_TYPE = "tf2_msgs/msg/TFMessage"
_SECOND_NS = 1_000_000_000
_NOT_PICTURES = ("compressedDepth", "theora", "ffmpeg")  # image transports that hold no single pictures
_FIXED_FIELDS = ("width", "height", "distortion_model", "d", "binning_x", "binning_y", "roi")  # of d its length
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class BagMessage:
    """One recorded message."""

    topic: str
    stamp_ns: int  # bag time: when it was received by the recorder
    type: str  # message type, in ROS 2's spelling
    occurrence: int  # its number among the messages of its topic with this bag time
    raw: bytes = field(repr=False)
    _storage: Storage = field(repr=False)

    @cached_property
    def message(self) -> Any:
        """The deserialised message. Raises BagError where the bytes do not fit the type, or its stamp is none."""
        try:
            message = self._storage.decode(self.raw, self.type)
            stamp = getattr(getattr(message, "header", None), "stamp", None)
            if stamp is not None and stamp.nanosec >= _SECOND_NS:
                raise ValueError(f"a stamp of {stamp.nanosec} nanoseconds to its second")
        except Exception as error:  # the decoder is generated code: whatever broken bytes make it raise
            what = f"damaged message ({len(self.raw)} bytes cannot be decoded as {self.type}: {error})"
            cure = "Record it again"
            raise BagError(what, where=f"topic {self.topic}, bag time {self.stamp_ns} ns", cure=cure) from error
        return message

    @cached_property
    def cdr(self) -> bytes:
        """The message as ROS 2 serialises it, ready to be published; converted where it comes from a ROS 1 bag."""
        return self._storage.cdr(self.raw, self.type)


class ImageFrame(NamedTuple):
    """A decoded image: stamp of its header (bag time where the header has none), frame, uint8 RGB [H, W, 3]."""

    stamp_ns: int
    frame_id: str
    image_rgb: NDArray[np.uint8]
    recorded: BagMessage


class CloudFrame(NamedTuple):
    """A point cloud: stamp of its header, frame, float32 [N, 3] in that frame."""

    stamp_ns: int
    frame_id: str
    xyz: NDArray[np.float32]


class BagReader:
    """Reads a rosbag2 folder, a single `.mcap` or `.db3` file, or a ROS 1 `.bag`.

    Use it as a context manager. Messages come in the order of bag time, whatever their header stamps do. Raises
    BagError: (on opening) Nothing there, no bag, or no message in it. `every`: of the images of each topic, read only
    every n-th; `rectified`: whether its images are rectified, by default those whose topics say so.
    """

    def __init__(self, path: Path | str, every: int = 1, *, rectified: bool | None = None) -> None:
        self.path, self._every, self._rectified = Path(path), every, rectified
        self.losses: list[str] = []  # what of the recording cannot be read, in words
        # Messages that could not be used, by topic and reason; each is counted once, however often it is read.
        self.skipped: Counter[str] = Counter()
        self._counted: set[tuple[str, int, int, str]] = set()
        self._storage: Storage | None = None
        self._axes: TransformBuffer | None = None

    def __enter__(self) -> "BagReader":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open it. Raises BagError, with the file, if it is damaged, or no message is there."""
        self._storage, self.losses = open_storage(self.path)
        if not sum(self._storage.counts.values()):
            foreign = ", ".join(sorted(set(self._storage.foreign.values())))
            self.close()
            if foreign:
                what = f"its messages are {foreign}, and none of ROS 2"
                raise BagError(what, where=str(self.path), cure=FOREIGN_CURE)
            what = "no message of the bag can be read" if self.losses else "bag holds no message"
            raise BagError(what, where=str(self.path), cure=self._cure("Record it again"))

    def close(self) -> None:
        """Close the files."""
        if self._storage is not None:
            self._storage.close()
            self._storage = None

    @property
    def topics(self) -> dict[str, str]:
        """Topic -> message type, of the topics that hold messages."""
        return {topic: current_type(self._opened.types[topic]) for topic in self.counts}

    @property
    def counts(self) -> dict[str, int]:
        """Topic -> number of messages."""
        return {topic: count for topic, count in self._opened.counts.items() if count}

    @property
    def start_ns(self) -> int:
        """Bag time of the first message."""
        return self._opened.start_ns

    @property
    def end_ns(self) -> int:
        """Bag time of the last message."""
        return self._opened.end_ns

    def messages(
        self, topics: Collection[str] | None = None, *, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages by bag time; `topics`: only these; `start_ns`, `stop_ns`: first time wanted, and no longer so.

        Raises BagError where it turns out to be damaged.
        """
        storage = self._opened
        seen: Counter[tuple[str, int]] = Counter()
        images: Counter[str] = Counter()
        received_ns = storage.start_ns if start_ns is None else start_ns
        try:
            for topic, received_ns, raw in storage.messages(topics, start_ns, stop_ns):
                at, kind = (topic, received_ns), storage.types[topic]
                seen[at] += 1
                images[topic] += kind in IMAGE_TYPES
                if images[topic] and (images[topic] - 1) % self._every:
                    continue
                yield BagMessage(*at, kind, seen[at] - 1, raw, storage)
        except Exception as error:  # rosbags lets the errors of its decompressors and of SQLite through
            read_s = (received_ns - storage.start_ns) / _SECOND_NS
            reason = f"at {read_s:.1f} s of it, bag time {received_ns} ns: {type(error).__name__}: {error}"
            raise damaged(self.path, reason) from error

    def readable(
        self,
        topics: Collection[str],
        # Takes a deserialised message; raises a `SceneCompletionError` if it cannot be used.
        read: Callable[[Any], _Value],
        wanted: Callable[[BagMessage], bool] = lambda _: True,  # which messages to look at
    ) -> Iterator[tuple[BagMessage, _Value]]:
        """Yield messages and what can be read out of them; where it cannot, they are counted in `skipped`."""
        for recorded in filter(wanted, self.messages(topics)):
            try:
                value = read(recorded.message)
            except SceneCompletionError as error:
                self._skip(recorded, error.what.partition(" (")[0].partition(", but ")[0])  # without numbers
            else:
                yield recorded, value

    def first(self, topic: str) -> Any | None:
        """The first message of a topic that can be decoded."""
        return next((recorded.message for recorded, _ in self.readable([topic], _all_of_it)), None)

    def _cure(self, cure: str) -> str:
        """What to do about something that is missing: of a damaged bag, what its losses say."""
        return "; ".join(self.losses) or cure

    def _skip(self, recorded: BagMessage, reason: str) -> None:
        key = (recorded.topic, recorded.stamp_ns, recorded.occurrence, reason)
        self.skipped[f"{recorded.topic}: {reason}"] += key not in self._counted
        self._counted.add(key)

    def image_topics(self) -> list[str]:
        """Topics with colour or grey images, sorted (depth transports and videos are left out)."""
        return sorted(
            topic
            for topic, kind in self.topics.items()
            if kind in IMAGE_TYPES and topic.rpartition("/")[2] not in _NOT_PICTURES
        )

    def topics_of_type(self, msgtype: str) -> list[str]:
        """Topics of one message type, sorted."""
        return sorted(topic for topic, kind in self.topics.items() if kind == msgtype)

    def choose_image_topic(self, name: str | None = None) -> str:
        """The named or the only image topic. Raises BagError with what there is where it is not one."""
        found = self.image_topics()
        listed = ", ".join(found) or "none"
        if name is not None:
            if name in found:
                return name
            what = f"no image topic {name!r}"
            if name in self._opened.foreign:
                what = f"the messages of {name} are {self._opened.foreign[name]}, and not of ROS 2 (cdr)"
            raise BagError(what, where=str(self.path), cure=f"Name one of its image topics: {listed}")
        if len(found) == 1:
            return found[0]
        if not found:
            kinds = {**self._opened.foreign, **self.topics}
            others = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(kinds.items()))
            what = f"no image topic in {'what can be read of ' * bool(self.losses)}the bag, which holds {others}"
            raise BagError(what, where=str(self.path), cure=self._cure("Record one"))
        what = f"{len(found)} image topics and none named"
        raise BagError(what, where=str(self.path), cure=f"Name one of them: {listed}")

    def is_rectified(self, image_topic: str) -> bool:
        """Tell if images are taken to be rectified: P of the CameraInfo is used, without distortion."""
        return is_rectified_topic(image_topic) if self._rectified is None else self._rectified

    def camera_info_topic(self, image_topic: str) -> str | None:
        """The CameraInfo topic that belongs to an image topic: `camera_info` below it, or the nearest above it.

        The only CameraInfo of a bag is also taken for an image topic elsewhere if their frames agree, or if it has none
        and there are no other images.
        """
        infos = self.topics_of_type(CAMERA_INFO_TYPE)
        parts = image_topic.split("/")
        for depth in range(len(parts), 0, -1):
            candidate = "/".join([*parts[:depth], "camera_info"])
            if candidate in infos:
                return candidate
        if len(infos) == 1:
            firsts = [one for one in map(self.first, (image_topic, *infos)) if one is not None]
            frames = {str(one.header.frame_id).strip("/ ") for one in firsts}
            if len(firsts) == 2 and len(frames - ({""} if len(self.image_topics()) == 1 else set())) == 1:
                return infos[0]
        return None

    def camera_info(self, image_topic: str, doubts: list[Doubt] | None = None) -> Any | None:
        """Return the first usable CameraInfo of an image topic, else the first one; None where there is none.

        Where its numbers vary a little from message to message, it has their median, and `doubts` says so. Raises
        BagError where they vary too much for that.
        """
        topic = self.camera_info_topic(image_topic)
        if topic is None:
            return None
        read = partial(camera_from_camera_info, rectified=self.is_rectified(image_topic))
        found = [(recorded.message, camera) for recorded, camera in self.readable([topic], read)]
        messages, cameras = [message for message, _ in found], [camera for _, camera in found]
        if all(cameras[0].moves(camera) <= LARGEST_MOVE for camera in cameras):
            return messages[0] if messages else self.first(topic)
        where = f"{self.path}, topic {topic}"
        cure = "Split the recording where the calibration changes, or give a calibration file"
        for name in _FIXED_FIELDS:
            values = [len(one.d) if name == "d" else getattr(one, name) for one in messages]
            if other := [value for value in values if value != values[0]]:
                raise BagError(f"field {name} changes from {values[0]} to {other[0]}", where=where, cure=cure)
        numbers = {name: np.stack([np.asarray(getattr(one, name)) for one in messages]) for name in "kdpr"}
        median = replace(messages[0], **{name: np.median(values, axis=0) for name, values in numbers.items()})
        moves, focals = [read(median).moves(camera) for camera in cameras], [camera.fx for camera in cameras]
        name = next(name for name, values in numbers.items() if np.ptp(values, axis=0).any())
        what = f"field {name} changes from message to message, by up to {max(moves):.1f} pixels in the image "
        what += f"(fx from {min(focals):.1f} to {max(focals):.1f})"
        if varies_too_much(moves, read(median)):
            what += f", too much for a median: half of them by {np.median(moves):.1f} pixels"
            raise BagError(what, where=where, cure=f"{cure}, and record with fixed focus and zoom")
        if doubts is not None:
            what += f": their median is used (fx {read(median).fx:.1f})"
            doubts.append(Doubt(what, where=where, cure="Record with fixed focus and zoom", unusual=True))
        return median

    def camera_for(self, image_topic: str, doubts: list[Doubt] | None = None) -> Camera:
        """Build the camera of an image topic from its CameraInfo; `doubts` gets what speaks against it.

        Raises BagError: no CameraInfo, one that contradicts itself or the images: names topic, field and cure.
        """
        message = self.camera_info(image_topic, doubts)
        if message is None:
            infos = ", ".join(self.topics_of_type(CAMERA_INFO_TYPE)) or "none"
            what = f"no CameraInfo for {image_topic} (CameraInfo topics: {infos})"
            cure = self._cure("Record the camera_info topic of this camera, or give a calibration file")
            raise BagError(what, where=str(self.path), cure=cure)
        where = f"{self.path}, topic {self.camera_info_topic(image_topic)}"
        rectified, at = self.is_rectified(image_topic), f"{where}, CameraInfo"
        try:
            camera = camera_from_camera_info(message, rectified=rectified, where=at, doubts=doubts)
        except CameraError as error:
            raise BagError(error.what, where=error.where, cure=error.cure) from error
        size = next((size for _, size in self.readable([image_topic], announced_size)), None)
        if size is not None and size != (camera.width, camera.height):
            raise BagError(
                f"images of {image_topic} are {size[0]}x{size[1]}, "
                f"fields width, height (and binning, roi) say {camera.width}x{camera.height}",
                where=where,
                cure="Record the CameraInfo of this image stream, or give a calibration file",
            )
        return camera

    def images(self, topic: str) -> Iterator[ImageFrame]:
        """Yield the decoded images of a topic; those that cannot be decoded are counted in `skipped`."""
        for recorded, pixels in self.readable([topic], decode_image):
            message = recorded.message
            stamp_ns = stamp_of(message.header) or recorded.stamp_ns
            yield ImageFrame(stamp_ns, self.frame_of(message.header), pixels, recorded)

    def frame_of(self, header: Any) -> str:
        """Frame of an image, without the slash of ROS 1; of one in the frame of a body its only optical child."""
        try:
            return self.optical_frame(str(header.frame_id), "")[0]
        except TransformConflictError:
            return str(header.frame_id).strip("/")

    def optical_frame(self, frame_id: str, topic: str) -> tuple[str, str]:
        """The optical frame of images, by tf and the only odometry, and a note: see `TransformBuffer.optical_frame`."""
        if self._axes is None:
            odometry = self.topics_of_type(ODOMETRY_TYPE)
            self._axes = self.tf_buffer(odometry_topic=odometry[0] if len(odometry) == 1 else None)
        return self._axes.optical_frame(frame_id, f"{self.path}, topic {topic}")

    def point_clouds(self, topic: str) -> Iterator[CloudFrame]:
        """Yield the points of a PointCloud2 topic; clouds that cannot be read are counted in `skipped`."""
        for recorded, xyz in self.readable([topic], read_xyz):
            header = recorded.message.header
            yield CloudFrame(stamp_of(header) or recorded.stamp_ns, str(header.frame_id), xyz)

    def tf_buffer(
        self,
        *,
        odometry_topic: str | None = None,  # also TOPIC=CHILD, with the frame that its poses are of
        within: Callable[[int], bool] = lambda _: True,
    ) -> TransformBuffer:
        """Collect the transforms of /tf and /tf_static, and the poses of an odometry topic if one is named.

        Transforms with NaN, broken quaternions or places beyond any robot are left out and counted in `skipped`.
        `within`: whether to take what was recorded at a bag time; /tf_static is always taken.
        """
        buffer = TransformBuffer()
        topics = self.topics_of_type(TRANSFORM_TYPE)
        odometry, _, child = (odometry_topic or "").partition("=")

        def wanted(recorded: BagMessage) -> bool:
            return recorded.topic.endswith("tf_static") or within(recorded.stamp_ns)

        for recorded, message in self.readable([*topics, odometry], _all_of_it, wanted):
            topic = recorded.topic
            if topic == odometry:
                buffer.add_odometry(message, child, topic)
            else:
                buffer.add_message(message, static=topic.endswith("tf_static"), topic=topic)
            moving = [message] if topic == odometry else [] if topic.endswith("tf_static") else message.transforms[:1]
            buffer.ahead_ns.extend(stamp_of(one.header) - recorded.stamp_ns for one in moving)
            for reason in buffer.rejected:
                self._skip(recorded, reason)
            buffer.rejected.clear()
        return buffer

    @property
    def _opened(self) -> Storage:
        assert self._storage is not None, "use `with BagReader(path) as reader`"
        return self._storage


def demo_drive() -> tuple[Camera, list[NDArray[np.uint8]]]:
    """Camera and images of the bundled drive: uint8 RGB [H, W, 3]."""
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic()
        return reader.camera_for(topic), [frame.image_rgb for frame in reader.images(topic)]


def _all_of_it(message: Any) -> Any:
    return message
