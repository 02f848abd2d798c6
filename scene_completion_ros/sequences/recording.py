"""`Recording`: the images of a bag by camera and time, before anything is known of poses.

Images and point clouds stay in their bag until they are asked for.
"""

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE, IMAGE_TYPES, BagMessage, BagReader
from scene_completion_ros.errors import BagError, SceneCompletionError, SequenceError
from scene_completion_ros.geometry.camera_files import RECTIFIED_TOPIC, camera_from_projection, read_camera
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.images import (
    DEPTH_ENCODINGS,
    bayer_encoding,
    check_image,
    coordinates,
    decode_depth,
    decode_image,
    read_xyz,
)
from scene_completion_ros.messages.transform_buffer import TransformBuffer, stamp_of
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, ImageSource

DEPTH_TOLERANCE_NS = 20_000_000  # less than half the time between the images of a camera of 20 Hz
LIDAR_TOLERANCE_NS = 60_000_000  # half a revolution of a 10 Hz LiDAR, and a little


@dataclass(frozen=True)
class RecordedMessage:
    """Address of one message in a bag: unlike an open reader it can be sent to another process."""

    path: Path
    topic: str
    bag_stamp_ns: int
    occurrence: int  # of several messages of the topic with one bag time

    @staticmethod
    def of(reader: BagReader, recorded: BagMessage) -> "RecordedMessage":
        """The address of a message that a reader found."""
        return RecordedMessage(reader.path.resolve(), recorded.topic, recorded.stamp_ns, recorded.occurrence)

    def message(self) -> Any:
        """Read and decode it. Raises BagError where the bag does not hold it any more."""
        with _READING:
            reader = _shared_reader(self.path, os.getpid())
            for recorded in reader.messages([self.topic], start_ns=self.bag_stamp_ns, stop_ns=self.bag_stamp_ns + 1):
                if recorded.occurrence == self.occurrence:
                    return recorded.message
        what = f"no message {self.occurrence} of {self.topic} at bag time {self.bag_stamp_ns} ns"
        raise BagError(what, where=str(self.path), cure="The bag was changed since the sequence was made from it")


@dataclass(frozen=True)
class BagImage:
    """Image source that decodes a message of a bag when called."""

    recorded: RecordedMessage

    def __call__(self) -> NDArray[np.uint8]:
        """Read and decode: uint8 RGB [H, W, 3]."""
        return decode_image(self.recorded.message())

    def encoded(self) -> tuple[bytes, str] | None:
        """The JPEG or PNG file inside a compressed message, None for a raw one or a Bayer mosaic."""
        message = self.recorded.message()
        if not hasattr(message, "format") or bayer_encoding(message):
            return None
        content = bytes(message.data)
        return content, ".jpg" if content.startswith(b"\xff\xd8") else ".png"


def load_cloud(recorded: RecordedMessage, rig_from_lidar: RigidTransform) -> NDArray[np.float32]:
    """A point cloud of a bag: float32 [N, 3] in the rig frame at the time of its frame."""
    return np.asarray(rig_from_lidar.apply(read_xyz(recorded.message())), dtype=np.float32)


def load_depth(recorded: RecordedMessage) -> NDArray[np.float32]:
    """A depth image of a bag: float32 [H, W] in metres."""
    return decode_depth(recorded.message())


def list_depths(reader: BagReader, image_topic: str, frame_id: str) -> list[tuple[int, RecordedMessage]]:
    """Stamps and addresses of depth images in the frame of a camera, sorted by stamp; of several topics the first."""
    for topic in reader.of_robot(reader.topics_of_type(IMAGE_TYPES[0]), image_topic):
        first = reader.first(topic)
        if first is None or str(first.encoding).lower() not in DEPTH_ENCODINGS:
            continue
        if str(first.header.frame_id).strip("/") == frame_id:
            depths = [
                (stamp_of(recorded.message.header) or recorded.stamp_ns, RecordedMessage.of(reader, recorded))
                for recorded, _ in reader.readable([topic], decode_depth)
            ]
            return sorted(depths, key=lambda depth: depth[0])
    return []


def depth_asset(depths: Sequence[tuple[int, RecordedMessage]], stamp_ns: int) -> dict[str, ArrayLoader]:
    """The depth image that was taken with an image, as "depth"."""
    index = bisect_left(depths, stamp_ns, key=lambda depth: depth[0])
    around = depths[max(index - 1, 0) : index + 1]
    near = [one for one in around if abs(one[0] - stamp_ns) <= DEPTH_TOLERANCE_NS]
    return {"depth": partial(load_depth, min(near, key=lambda one: abs(one[0] - stamp_ns))[1])} if near else {}


def list_clouds(reader: BagReader, image_topic: str, lidar_topic: str | None) -> list[tuple[int, str, RecordedMessage]]:
    """Stamps, frames and addresses of the usable point clouds, sorted by stamp."""
    topics = reader.topics_of_type(CLOUD_TYPE)
    if lidar_topic is not None:
        if lidar_topic not in topics:
            what = f"no PointCloud2 topic {lidar_topic!r}"
            raise BagError(what, where=str(reader.path), cure=f"Name one of: {', '.join(topics) or 'none'}")
        topics = [lidar_topic]
    topics = reader.of_robot(topics, image_topic)
    if len(topics) != 1:
        return []
    clouds = []
    for recorded, _ in reader.readable(topics, coordinates):
        header, address = recorded.message.header, RecordedMessage.of(reader, recorded)
        clouds.append((stamp_of(header) or recorded.stamp_ns, str(header.frame_id), address))
    return sorted(clouds, key=lambda cloud: cloud[0])


def lidar_asset(
    clouds: Sequence[tuple[int, str, RecordedMessage]],
    buffer: TransformBuffer,
    world: str,
    world_from_rig: RigidTransform,
    stamp_ns: int,
    max_gap_ns: int,
) -> dict[str, ArrayLoader]:
    """The nearest cloud, moved from its own time into the rig frame at the frame's time, and where the LiDAR then was.

    That is "lidar_pose", float64 [4, 4], in the rig frame at the frame's time: a rig drives on between cloud and image.
    """
    if not clouds:
        return {}
    index = bisect_left(clouds, stamp_ns, key=lambda cloud: cloud[0])
    around = clouds[max(index - 1, 0) : index + 1]
    cloud_stamp_ns, frame_id, recorded = min(around, key=lambda cloud: abs(cloud[0] - stamp_ns))
    if abs(cloud_stamp_ns - stamp_ns) > LIDAR_TOLERANCE_NS:
        return {}
    try:
        world_from_lidar = buffer.lookup(world, frame_id, cloud_stamp_ns, max_gap_ns)
    except BagError:
        return {}
    rig_from_lidar = world_from_rig.inverse() @ world_from_lidar
    cloud = partial(load_cloud, recorded, rig_from_lidar)
    return {"lidar": cloud, "lidar_pose": partial(np.asarray, rig_from_lidar.matrix)}


_READING = threading.Lock()  # one reader has one file position


@lru_cache(maxsize=4)
def _shared_reader(path: Path, process_id: int) -> BagReader:  # noqa: ARG001 (part of the key)
    """Open reader of a bag; each process has its own, because a forked one would share the file position."""
    reader = BagReader(path)
    reader.open()
    return reader


SYNC_TOLERANCE_NS = 1_000_000  # images closer in time than this belong to one frame
CLOCK_JUMP_NS = 1_000_000_000  # stamps that fall back by more have been started anew, less is a stray message
BASELINE_TOLERANCE_M = 0.03  # between tf and CameraInfo, before they are said to contradict each other
_SUFFIXES = ("compressed", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono", "image")


@dataclass(frozen=True)
class Window:
    """A stretch of bag time over which the clock of the stamps runs forwards: [start_ns, stop_ns), open where None."""

    start_ns: int | None = None
    stop_ns: int | None = None

    def holds(self, bag_stamp_ns: int) -> bool:
        """Whether a bag time lies in it."""
        return (self.start_ns is None or bag_stamp_ns >= self.start_ns) and (
            self.stop_ns is None or bag_stamp_ns < self.stop_ns
        )


@dataclass
class Recording:
    """Images of a rig over one window of a bag."""

    reader: BagReader  # the open bag
    window: Window  # stretch of bag time
    topics: dict[str, str]  # camera name -> image topic; the first camera's optical frame is the rig frame
    frame_ids: dict[str, str]  # camera name -> frame of its images
    cameras: dict[str, Camera]
    # Images by time: stamp of the earliest, and camera name -> image. A camera may be missing.
    groups: list[tuple[int, dict[str, ImageSource]]]
    dropped: Counter[str]  # reason -> number of images left out
    warnings: list[str] = field(default_factory=list)  # what should be looked at, in words

    @property
    def first_camera(self) -> str:
        """Name of the camera that is the rig's origin."""
        return next(iter(self.topics))

    @property
    def rig_frame(self) -> str:
        """Frame of the first camera's images."""
        return self.frame_ids[self.first_camera]

    def transforms(self, odometry_topic: str | None = None) -> TransformBuffer:
        """Collect /tf and an odometry of the window, and /tf_static of the whole bag.

        A clock that was started anew would mix two drives in one buffer. Broken transforms are counted in the reader's
        `skipped`.
        """
        topic = self.topics[self.first_camera]
        return self.reader.tf_buffer(odometry_topic=odometry_topic, within=self.window.holds, image_topic=topic)

    def rig_from_camera(self, buffer: TransformBuffer, camera: str) -> RigidTransform:
        """From tf, or from P of a rectified pair with one frame. Raises BagError where neither says it."""
        if camera == self.first_camera:
            return RigidTransform.identity()
        reader, topic, frame_id = self.reader, self.topics[camera], self.frame_ids[camera]
        by_projection = _rig_from_camera_by_projection(reader, self.topics[self.first_camera], topic)
        if frame_id == self.rig_frame:
            if by_projection is None:
                what = f"two cameras in one frame {self.rig_frame!r}, and field p of their CameraInfo gives no baseline"
                cure = "Give each camera its own frame in /tf_static, or publish P of the stereo calibration"
                raise BagError(what, where=f"{reader.path}, topic {topic}", cure=cure)
            return by_projection
        if not buffer.has_path(self.rig_frame, frame_id) and by_projection is not None:
            return by_projection
        by_tf = buffer.lookup(self.rig_frame, frame_id, self.groups[0][0])
        if by_projection is not None:
            difference = float(np.linalg.norm(by_tf.translation - by_projection.translation))
            if difference > BASELINE_TOLERANCE_M:
                self.warnings.append(
                    f"{topic}: tf and field p of CameraInfo place it {difference:.3f} m apart; tf is used"
                )
        return by_tf


def read_recordings(
    reader: BagReader,
    # Topics to use; by default all with a CameraInfo or a file, of raw and compressed twins the compressed one.
    image_topics: Sequence[str] | None = None,
    *,
    sync_tolerance_ns: int = SYNC_TOLERANCE_NS,  # images of several cameras no further apart in time make one frame
    # Whether stamps that fall back by a second or more begin another recording; otherwise those images are dropped.
    split_at_clock_jumps: bool = False,
    # Image topic -> calibration file (see `read_camera`), instead of its CameraInfo.
    calibration: Mapping[str, str] | None = None,
) -> list[Recording]:
    """List the images of a bag. Returns one recording for every window of the clock.

    Raises BagError: no usable image topic, or no calibration for a named one: says what to record; SequenceError where
    a topic has no usable image.
    """
    files = dict(calibration or {})
    topics = choose_topics(reader, image_topics, files)
    warnings: list[str] = []
    # A topic that nobody asked for may be unusable; the last one left may not.
    optional = image_topics is None and len(topics) > 1
    streams: dict[str, _Stream] = {}
    for topic in topics:
        try:
            streams[topic] = _read_stream(reader, topic, files.get(topic))
        except SceneCompletionError as error:
            if not optional or (topic == topics[-1] and not streams):
                raise
            warnings.append(f"{topic} is left out: {error}")
    first = next(iter(streams.values()))
    windows = _windows(first.images) if split_at_clock_jumps else [Window()]
    recordings = [_recording(reader, window, streams, sync_tolerance_ns) for window in windows]
    recordings[0].warnings += warnings
    return recordings


def choose_topics(reader: BagReader, named: Sequence[str] | None, calibrated: Mapping[str, str]) -> list[str]:
    """The named image topics, or all with calibration. Raises BagError: wrong or double names, no calibration."""
    if named is not None:
        chosen = [reader.choose_image_topic(name) for name in named]
        if len(set(chosen)) != len(chosen) or not chosen:
            what = f"{list(named)} names no image topic, or one of them twice"
            raise BagError(what, where=str(reader.path), cure="Name each once")
        return chosen
    found = reader.image_topics()
    single = [topic for topic in found if f"{topic}/compressed" not in found]
    usable = [topic for topic in single if topic in calibrated or reader.camera_info_topic(topic) is not None]
    if not usable:
        reader.camera_for(reader.choose_image_topic())  # raises: no image topic, several, or no CameraInfo
    return usable


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """Short, distinct camera names: "/camera/left/image_raw/compressed" -> "camera_left"."""
    names: dict[str, str] = {}
    for topic in topics:
        parts = [part for part in topic.split("/") if part]
        while len(parts) > 1 and parts[-1] in _SUFFIXES:
            parts.pop()
        base = "_".join(parts)
        names[topic] = base if base not in names.values() else "_".join(part for part in topic.split("/") if part)
    return names


def counted(counter: Mapping[str, int]) -> str:
    """Counts and reasons in one line, the most frequent first."""
    ordered = sorted(counter.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} x {reason}" for reason, count in ordered) or "none seen"


@dataclass(frozen=True, eq=False)
class _Stream:
    """All usable images of a topic in the order of bag time: header stamp and address."""

    camera: Camera
    frame_id: str
    images: list[tuple[int, RecordedMessage]]


def _read_stream(reader: BagReader, topic: str, calibration: str | None) -> _Stream:
    camera = (
        reader.camera_for(topic)
        if calibration is None
        else read_camera(calibration, rectified=RECTIFIED_TOPIC in topic)
    )
    images, frame_ids = _images(reader, topic)
    if len(frame_ids) > 1 or not next(iter(frame_ids)):
        what = f"field header.frame_id of the images is {sorted(frame_ids)}"
        cure = "Images of one camera need one frame name that is not empty"
        raise BagError(what, where=f"{reader.path}, topic {topic}", cure=cure)
    return _Stream(camera, frame_ids.pop(), images)


def _recording(reader: BagReader, window: Window, streams: Mapping[str, _Stream], tolerance_ns: int) -> Recording:
    dropped: Counter[str] = Counter()
    names = camera_names(list(streams))
    advancing = {
        names[topic]: _advancing(topic, [image for image in s.images if window.holds(image[1].bag_stamp_ns)], dropped)
        for topic, s in streams.items()
    }
    return Recording(
        reader=reader,
        window=window,
        topics={names[topic]: topic for topic in streams},
        frame_ids={names[topic]: stream.frame_id for topic, stream in streams.items()},
        cameras={names[topic]: stream.camera for topic, stream in streams.items()},
        groups=_grouped(advancing, tolerance_ns),
        dropped=dropped,
    )


def _images(reader: BagReader, topic: str) -> tuple[list[tuple[int, RecordedMessage]], set[str]]:
    """Images of a topic that can be decoded, and the frames they name."""
    images: list[tuple[int, RecordedMessage]] = []
    frame_ids: set[str] = set()
    for recorded, _ in reader.readable([topic], check_image):
        header = recorded.message.header
        images.append((stamp_of(header) or recorded.stamp_ns, RecordedMessage.of(reader, recorded)))
        frame_ids.add(str(header.frame_id).strip("/"))
    if not images:
        why = counted({reason: count for reason, count in reader.skipped.items() if reason.startswith(f"{topic}: ")})
        raise SequenceError(f"no usable image on {topic} ({why})", where=str(reader.path), cure="Use another topic")
    return images, frame_ids


def _windows(images: Sequence[tuple[int, RecordedMessage]]) -> list[Window]:
    """Windows of bag time between the places where the stamps start anew."""
    starts: list[int] = []
    newest = images[0][0]
    for (stamp_ns, address), following in zip(images, [*images[1:], None], strict=True):
        goes_on_there = following is None or following[0] < newest - CLOCK_JUMP_NS  # not just one stray message
        if stamp_ns < newest - CLOCK_JUMP_NS and goes_on_there:
            starts.append(address.bag_stamp_ns)
            newest = stamp_ns
        newest = max(newest, stamp_ns)
    return [Window(start, stop) for start, stop in zip([None, *starts], [*starts, None], strict=True)]


def _advancing(
    topic: str, images: Sequence[tuple[int, RecordedMessage]], dropped: Counter[str]
) -> list[tuple[int, RecordedMessage]]:
    """Images whose header stamps advance; the others are counted."""
    kept: list[tuple[int, RecordedMessage]] = []
    for stamp_ns, address in images:
        if kept and stamp_ns <= kept[-1][0]:
            dropped[f"{topic}: header stamp does not advance"] += 1
        else:
            kept.append((stamp_ns, address))
    return kept


def _grouped(
    streams: Mapping[str, Sequence[tuple[int, RecordedMessage]]], tolerance_ns: int
) -> list[tuple[int, dict[str, ImageSource]]]:
    """Images of all cameras by time: (stamp, camera -> image); a frame's stamp is that of its earliest image."""
    everything = sorted(
        ((stamp, name, address) for name, stream in streams.items() for stamp, address in stream),
        key=lambda item: item[0],
    )
    groups: list[tuple[int, dict[str, ImageSource]]] = []
    for stamp_ns, name, address in everything:
        if groups and stamp_ns - groups[-1][0] <= tolerance_ns and name not in groups[-1][1]:
            groups[-1][1][name] = BagImage(address)
        elif not groups or stamp_ns > groups[-1][0]:
            groups.append((stamp_ns, {name: BagImage(address)}))
    return groups


def _rig_from_camera_by_projection(reader: BagReader, first: str, other: str) -> RigidTransform | None:
    """Baseline from the fourth column of P, None where neither camera has one (monocular calibration)."""
    from_reference = []
    for topic in (first, other):
        info = reader.camera_info(topic)
        if info is None:
            return None
        projection = np.asarray(info.p, dtype=np.float64).reshape(3, 4)
        if not projection[:, :3].any():
            return None
        from_reference.append(camera_from_projection(projection, int(info.width), int(info.height))[1])
    if not any(transform.translation.any() for transform in from_reference):
        return None
    return from_reference[0] @ from_reference[1].inverse()
