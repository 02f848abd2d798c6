"""Posed sequences from bags: images by camera and time, poses from tf or odometry, LiDAR and depth if recorded.

Images and point clouds stay in their bag until they are asked for.
"""

import math
import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros import errors
from scene_completion_ros.bags.reader import CLOUD_TYPE, IMAGE_TYPES, ODOMETRY_TYPE, BagMessage, BagReader
from scene_completion_ros.bags.storage import names_bag
from scene_completion_ros.errors import BagError, SceneCompletionError, SequenceError, TransformConflictError
from scene_completion_ros.geometry import plausible_cameras as plausible
from scene_completion_ros.geometry.camera_files import camera_from_projection, read_camera
from scene_completion_ros.geometry.camera_info import topic_words
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.plausible_motion import HANGS
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.geometry.turned_pictures import Moment, turned_doubt
from scene_completion_ros.messages import images
from scene_completion_ros.messages.transform_buffer import TransformBuffer, child_cure, stamp_of
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, ImageSource, PosedSequence, Source

DEPTH_TOLERANCE_NS = 20_000_000  # less than half the time between the images of a camera of 20 Hz
LIDAR_TOLERANCE_NS = 60_000_000  # half a revolution of a 10 Hz LiDAR, and a little
LARGEST_GAP_NS = 500_000_000  # between two poses that is interpolated over, as in the node
SYNC_TOLERANCE_NS = 1_000_000  # images closer in time than this belong to one frame
CLOCK_JUMP_NS = 1_000_000_000  # stamps that fall back by more have been started anew, less is a stray message
CLOCK_IMAGES = 100  # the first ones, whose stamps are compared with those of transforms
BASELINE_TOLERANCE_M = 0.03  # between tf and CameraInfo, before they count as a contradiction
_SUFFIXES = ("compressed", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono", "image")


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


_READING = threading.Lock()  # one reader has one file position


@lru_cache(maxsize=4)
def _shared_reader(path: Path, process_id: int) -> BagReader:  # noqa: ARG001 (part of the key)
    """Open reader of a bag; each process has its own, because a forked one would share the file position."""
    reader = BagReader(path)
    reader.open()
    return reader


@dataclass(frozen=True)
class BagImage:
    """Image source that decodes a message of a bag when called."""

    recorded: RecordedMessage

    def __call__(self) -> NDArray[np.uint8]:
        """Read and decode: uint8 RGB [H, W, 3]."""
        return images.decode_image(self.recorded.message())

    def encoded(self) -> tuple[bytes, str] | None:
        """The JPEG or PNG file inside a compressed message, None for a raw one or a Bayer mosaic."""
        message = self.recorded.message()
        if not hasattr(message, "format") or images.bayer_encoding(message):
            return None
        content = bytes(message.data)
        return content, ".jpg" if content.startswith(b"\xff\xd8") else ".png"


def load_cloud(recorded: RecordedMessage, rig_from_lidar: RigidTransform) -> NDArray[np.float32]:
    """A point cloud of a bag: float32 [N, 3] in the rig frame at the time of its frame."""
    return np.asarray(rig_from_lidar.apply(images.read_xyz(recorded.message())), dtype=np.float32)


def load_depth(recorded: RecordedMessage) -> NDArray[np.float32]:
    """A depth image of a bag: float32 [H, W] in metres."""
    return images.decode_depth(recorded.message())


class _Stamped(NamedTuple):
    """A message of a topic that can be read: stamp of its header, its frame, and its address."""

    stamp_ns: int
    frame_id: str
    address: RecordedMessage
    stamped: bool  # whether the header has a stamp; otherwise it is the time of recording


def _stamped(reader: BagReader, topics: Sequence[str], read: Callable[[Any], object]) -> list[_Stamped]:
    """The messages of topics that can be read, in the order of bag time; the others are counted in `skipped`."""
    found = []
    for recorded, _ in reader.readable(topics, read):
        header = recorded.message.header
        stamp_ns, address = stamp_of(header), RecordedMessage.of(reader, recorded)
        found.append(
            _Stamped(stamp_ns or recorded.stamp_ns, str(header.frame_id).strip("/"), address, stamped=stamp_ns > 0)
        )
    return found


def _nearest(sorted_by_stamp: Sequence[_Stamped], stamp_ns: int, tolerance_ns: int) -> _Stamped | None:
    """The one with the stamp nearest to another, if that is within the tolerance."""
    index = bisect_left(sorted_by_stamp, stamp_ns, key=itemgetter(0))
    around = [one for one in sorted_by_stamp[max(index - 1, 0) : index + 1] if abs(one[0] - stamp_ns) <= tolerance_ns]
    return min(around, key=lambda one: abs(one.stamp_ns - stamp_ns), default=None)


def list_depths(reader: BagReader, frame_id: str) -> list[_Stamped]:
    """Depth images in the frame of a camera, sorted by stamp; of several topics the first."""
    for topic in reader.topics_of_type(IMAGE_TYPES[0]):
        first = reader.first(topic)
        if first is None or str(first.encoding).lower() not in images.DEPTH_ENCODINGS:
            continue
        if str(first.header.frame_id).strip("/") == frame_id:
            return sorted(_stamped(reader, [topic], images.decode_depth), key=itemgetter(0))
    return []


def list_clouds(reader: BagReader, lidar_topic: str | None) -> list[_Stamped]:
    """The usable point clouds, sorted by stamp."""
    topics = reader.topics_of_type(CLOUD_TYPE)
    if lidar_topic is not None:
        if lidar_topic not in topics:
            what = f"no PointCloud2 topic {lidar_topic!r}"
            raise BagError(what, where=str(reader.path), cure=f"Name one of: {', '.join(topics) or 'none'}")
        topics = [lidar_topic]
    return sorted(_stamped(reader, topics, images.coordinates), key=itemgetter(0)) if len(topics) == 1 else []


def lidar_asset(
    clouds: Sequence[_Stamped], buffer: TransformBuffer, world: str, world_from_rig: RigidTransform, stamp_ns: int
) -> dict[str, ArrayLoader]:
    """The nearest cloud, moved from its own time into the rig frame at the frame's time, and where the LiDAR then was.

    That is "lidar_pose", float64 [4, 4], in the rig frame at the frame's time: a rig drives on between cloud and image.
    """
    near = _nearest(clouds, stamp_ns, LIDAR_TOLERANCE_NS)
    if near is None:
        return {}
    try:
        world_from_lidar = buffer.lookup(world, near.frame_id, near.stamp_ns)
    except BagError:
        return {}
    rig_from_lidar = world_from_rig.inverse() @ world_from_lidar
    cloud = partial(load_cloud, near.address, rig_from_lidar)
    return {"lidar": cloud, "lidar_pose": partial(np.asarray, rig_from_lidar.matrix)}


class Window(NamedTuple):
    """A stretch of bag time over which the clock of the stamps runs forwards: [start_ns, stop_ns)."""

    start_ns: float = -math.inf
    stop_ns: float = math.inf

    def holds(self, bag_stamp_ns: int) -> bool:
        """Whether a bag time lies in it."""
        return self.start_ns <= bag_stamp_ns < self.stop_ns


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
        return self.reader.tf_buffer(odometry_topic=odometry_topic, within=self.window.holds)

    @staticmethod
    def ahead_ns(stamp_ns: int, found: Mapping[str, ImageSource]) -> int:
        """By how much the stamp of a group of images is ahead of the time of their recording."""
        return stamp_ns - min(image.recorded.bag_stamp_ns for image in found.values() if isinstance(image, BagImage))

    def rig_from_camera(self, buffer: TransformBuffer, camera: str) -> RigidTransform:
        """From tf, or from P of a rectified pair with one frame. Raises BagError where neither has it."""
        if camera == self.first_camera:
            return RigidTransform.identity()
        reader, topic, frame_id = self.reader, self.topics[camera], self.frame_ids[camera]
        by_projection = _rig_from_camera_by_projection(reader, self.topics[self.first_camera], topic)
        if frame_id == self.rig_frame and by_projection is None:
            what = f"two cameras in one frame {self.rig_frame!r}, and field p of their CameraInfo gives no baseline"
            cure = "Give each camera its own frame in /tf_static, or publish P of the stereo calibration"
            raise BagError(what, where=f"{reader.path}, topic {topic}", cure=cure)
        placed = frame_id != self.rig_frame and buffer.has_path(self.rig_frame, frame_id)
        if by_projection is not None and not placed:
            _check_pair(reader, self.topics[self.first_camera], topic, by_projection)
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

    Raises BagError: no usable image topic, or no calibration for a named one; SequenceError where a topic
    has no usable image.
    """
    files = dict(calibration or {})
    topics = choose_topics(reader, image_topics, files)
    warnings: list[str] = []
    # A topic that was not named may be unusable; the last one left may not.
    optional = image_topics is None and len(topics) > 1
    streams: dict[str, _Stream] = {}
    for topic in topics:
        try:
            streams[topic] = _read_stream(reader, topic, files.get(topic))
        except SceneCompletionError as error:
            if not optional or (topic == topics[-1] and not streams):
                raise
            warnings.append(f"{topic} is left out: {error}")
    warnings += [warning for stream in streams.values() for warning in stream.warnings]
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
    return ", ".join(f"{count} x {reason}" for reason, count in Counter(counter).most_common()) or "none seen"


class _Stream(NamedTuple):
    """All usable images of a topic in the order of bag time."""

    camera: Camera
    frame_id: str
    images: list[_Stamped]
    warnings: list[str]


def _read_stream(reader: BagReader, topic: str, calibration: str | None) -> _Stream:
    doubts: list[plausible.Doubt] = []
    notes: list[str] = []
    rectified = reader.is_rectified(topic)
    camera = read_camera(calibration, rectified=rectified) if calibration else reader.camera_for(topic, doubts)
    for doubt in plausible.doubts_about(camera, calibration) if calibration else doubts:
        if not doubt.unusual:
            raise doubt
        notes.append(str(doubt))
    found = _stamped(reader, [topic], images.check_image)
    if not found:
        why = counted({reason: count for reason, count in reader.skipped.items() if reason.startswith(f"{topic}: ")})
        raise SequenceError(f"no usable image on {topic} ({why})", where=str(reader.path), cure="Use another topic")
    frame_ids = {one.frame_id for one in found}
    if len(frame_ids) > 1 or not found[0].frame_id:
        what = f"field header.frame_id of the images is {sorted(frame_ids)}"
        cure = "Images of one camera need one frame name that is not empty; known frames: "
        raise BagError(what, where=f"{reader.path}, topic {topic}", cure=cure + reader.tf_buffer().known(""))
    frame_id, note = reader.optical_frame(found[0].frame_id, topic)
    notes += [f"{topic}: {note}"] if note else []
    if unstamped := sum(not one.stamped for one in found):
        notes.append(f"{topic}: {unstamped} of {len(found)} images have the stamp 0: the time of recording is taken")
    return _Stream(camera, frame_id, found, notes)


def _recording(reader: BagReader, window: Window, streams: Mapping[str, _Stream], tolerance_ns: int) -> Recording:
    dropped: Counter[str] = Counter()
    names = camera_names(list(streams))
    advancing = {
        names[topic]: _advancing(topic, [one for one in s.images if window.holds(one.address.bag_stamp_ns)], dropped)
        for topic, s in streams.items()
    }
    topics = {name: topic for topic, name in names.items()}
    frame_ids = {name: streams[topic].frame_id for name, topic in topics.items()}
    cameras = {name: streams[topic].camera for name, topic in topics.items()}
    return Recording(reader, window, topics, frame_ids, cameras, _grouped(advancing, tolerance_ns), dropped)


def _windows(found: Sequence[_Stamped]) -> list[Window]:
    """Windows of bag time between the places where the stamps start anew."""
    starts: list[int] = []
    newest = found[0].stamp_ns
    for one, following in zip(found, [*found[1:], None], strict=True):
        goes_on_there = following is None or following.stamp_ns < newest - CLOCK_JUMP_NS  # not just one stray message
        if one.stamp_ns < newest - CLOCK_JUMP_NS and goes_on_there:
            starts.append(one.address.bag_stamp_ns)
            newest = one.stamp_ns
        newest = max(newest, one.stamp_ns)
    return [Window(start, stop) for start, stop in zip([-math.inf, *starts], [*starts, math.inf], strict=True)]


def _advancing(topic: str, found: Sequence[_Stamped], dropped: Counter[str]) -> list[_Stamped]:
    """Images whose header stamps advance; the others are counted."""
    kept: list[_Stamped] = []
    for one in found:
        if kept and one.stamp_ns <= kept[-1].stamp_ns:
            dropped[f"{topic}: header stamp does not advance"] += 1
        else:
            kept.append(one)
    return kept


def _grouped(streams: Mapping[str, Sequence[_Stamped]], tolerance_ns: int) -> list[tuple[int, dict[str, ImageSource]]]:
    """Images of all cameras by time: (stamp, camera -> image); a frame's stamp is that of its earliest image."""
    everything = sorted(
        ((one.stamp_ns, name, one.address) for name, stream in streams.items() for one in stream), key=itemgetter(0)
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


def _check_pair(reader: BagReader, first: str, other: str, offset: RigidTransform) -> None:
    """Refuse a baseline by P that no stereo rig has, or that puts the camera named right on the left."""
    columns = {topic: float(reader.camera_info(topic).p[3]) for topic in (first, other)}  # type: ignore[union-attr]
    topic = other if columns[other] else first
    where, x = f"{reader.path}, topic {reader.camera_info_topic(topic)}, p", float(offset.translation[0])
    plausible.check_baseline(float(np.linalg.norm(offset.translation)), where, columns[topic])
    sides = [{"left", "right"} & {*topic_words(name)} for name in (first, other)]
    if sides == ([{"left"}, {"right"}] if x < 0.0 else [{"right"}, {"left"}]):
        what = f"P[3] = {columns[topic]:.6g} places the right camera {abs(x):.3f} m to the left of the left one"
        raise errors.CameraError(what, where=where, cure=plausible.PIXELS_TIMES_METRES)


def moving_transforms(
    reader: BagReader,
    frame: str,  # of the images
    transforms: Callable[[str | None], TransformBuffer],  # those of tf, and of an odometry topic if one is named
    world_frame: str | None = None,
    odometry_topic: str | None = None,  # to use where tf is not enough; the only one by default
) -> tuple[TransformBuffer, str, str]:
    """Buffer that knows how a frame moves, name of the world frame, and a description of the source.

    Raises BagError where its motion is unknown, with what to record; TransformConflictError where transforms
    contradict each other: names topics and frames.
    """
    buffer = transforms(None)
    world = world_frame or buffer.root_of(frame)
    buffer.check(world, frame)
    if buffer.has_path(world, frame) and not buffer.is_static(world, frame):
        return buffer, world, f"tf {world} -> {frame}"
    found = reader.topics_of_type(ODOMETRY_TYPE)
    odometries = [odometry_topic] if odometry_topic else found
    listed = ", ".join(odometries) or "none"
    if len(odometries) != 1:
        what = f"tf does not say how {frame!r} moves, and odometry topics are: {listed}"
        cure = "Record /tf and /tf_static, or record (or name) one odometry topic. A robot without odometry gets it "
        cure += "from a visual-inertial odometry node that runs while it records, such as rtabmap's or ORB-SLAM3"
        if buffer.frames and frame not in buffer.frames:
            what = f"tf does not know the frame {frame!r} of the images, and odometry topics are: {listed}"
            raise TransformConflictError(what, where=str(reader.path), cure=f"Known frames: {buffer.known(frame)}")
        if bad := [one for one in reader.skipped if " -> " in one]:
            cure = f"Transforms that cannot be used are left out: {', '.join(bad)}. Correct them, or: {cure}"
        raise BagError(what, where=str(reader.path), cure=cure)
    topic, _, child = listed.partition("=")
    first = reader.first(topic)
    if not child and first is not None and not first.child_frame_id:
        what = "odometry without child_frame_id, the frame that its poses are of"
        raise BagError(what, where=f"{reader.path}, topic {topic}", cure=child_cure(f"--odometry-topic {topic}"))
    buffer = transforms(listed)
    world = world_frame or buffer.root_of(frame)
    if not buffer.has_path(world, frame) or buffer.is_static(world, frame):
        cure = f"Record the static transform to the camera; known frames: {buffer.known(frame)}"
        raise BagError(f"neither tf nor {listed} has the motion of {frame!r}", where=str(reader.path), cure=cure)
    buffer.check(world, frame)
    return buffer, world, f"{topic} and tf, {world} -> {frame}"


class RecordedMotion:
    """Where the camera of an image topic was at any time of a recording.

    Raises BagError where the recording has no motion, with what to record.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        headers = islice(reader.readable([topic], lambda message: message.header), CLOCK_IMAGES)
        found = [(recorded.stamp_ns, header) for recorded, header in headers]
        self.named = str(found[0][1].frame_id) if found else ""  # the frame that the images name
        self.frame, note = reader.optical_frame(self.named, topic)
        self._buffer, self.world, self.source = moving_transforms(
            reader, self.frame, lambda name: reader.tf_buffer(odometry_topic=name)
        )
        self._path, self._topic, self._hangs = reader.path, topic, HANGS in note
        ahead = [stamp_of(header) - recorded_ns for recorded_ns, header in found if stamp_of(header)]
        clock = self._buffer.clock_problem(topic, ahead, "the time of recording")
        # What should be looked at, in words.
        self.warnings = [*filter(None, [note and f"{topic}: {note}", clock]), *self._buffer.notes]

    def at(self, stamp_ns: int) -> RigidTransform | str:
        """Pose of the camera's optical frame in the frame `world`; or why it is unknown."""
        try:
            return self._buffer.lookup(self.world, self.frame, stamp_ns, LARGEST_GAP_NS)
        except BagError as error:
            return error.what

    def of_images(self) -> Iterator[tuple[int, RigidTransform, BagImage]]:
        """Stamp of each image, where the camera was, as far as that is known, and the image."""
        with BagReader(self._path) as reader:
            for recorded, stamp_ns in reader.readable([self._topic], lambda message: stamp_of(message.header)):
                pose = self.at(stamp_ns)
                if not isinstance(pose, str):
                    yield stamp_ns, pose, BagImage(RecordedMessage.of(reader, recorded))

    def turned_doubt(self, camera: Camera) -> str:
        """Find that images are turned by 180° against their poses: see `turned_pictures`."""
        moments: list[Moment] = []
        with suppress(BagError):  # a damaged recording is told of by what reads all of it
            moments.extend(self.of_images())
        return turned_doubt(self._topic, camera, moments, self._hangs)


def sequence_from_bag(reader: BagReader, poses: str | None = None) -> PosedSequence:
    """Make a posed sequence of all images of a bag that have a CameraInfo; see `posed_recording`.

    Raises BagError: no usable image topic, CameraInfo, or poses, with what to record; SequenceError where no image is
    left, with what happened to them. `poses`: an odometry topic to use where tf is not enough. `UNKNOWN_POSES` takes
    the first camera's images, whose places are unknown.
    """
    (recording,) = read_recordings(reader)
    if poses != posed_sequence.UNKNOWN_POSES:
        return posed_recording(recording, odometry_topic=poses)
    camera, here = recording.first_camera, RigidTransform.identity()
    return PosedSequence(
        name=reader.path.stem,
        cameras={camera: recording.cameras[camera]},
        rig_from_camera={camera: here},
        frames=[Frame(stamp, {camera: found[camera]}, here) for stamp, found in recording.groups if camera in found],
        pose_source=posed_sequence.UNKNOWN_POSES,
        provenance=recording_provenance(recording),
    )


def posed_recording(
    recording: Recording,
    *,
    world_frame: str | None = None,
    odometry_topic: str | None = None,  # nav_msgs/Odometry to use where tf is not enough; the only one by default
    lidar_topic: str | None = None,  # PointCloud2 to attach as "lidar"; the only one by default
    # Frame whose z axis points up from the ground, as `base_frame` of the node or `map`. The world is then this frame
    # as it stands at the first image, and `PosedSequence.floor` is known.
    ground_frame: str | None = None,
    ground_height: float = 0.0,  # of the ground in it, metres
) -> PosedSequence:
    """Give the images of a recording the poses of tf or odometry.

    The rig frame is the optical frame of the first image topic. The world is the topmost frame above it in tf. Where tf
    does not say how the camera moves, it is the fixed frame of the odometry. Images that come at one time (1 ms) make
    one frame. Images and clouds stay in the bag and are read when asked for. The LiDAR, of whatever make, is the sensor
    "velodyne" of the rig. Depth images (16UC1, 32FC1) in the frame of the first camera, which are registered to it, are
    the asset "depth". Images without poses near enough to interpolate between (`TransformBuffer.lookup`) are dropped.
    Raises BagError where there are no poses, with what to record; SequenceError where no image is left, with what
    happened to them.
    """
    reader, rig_frame, dropped = recording.reader, recording.rig_frame, recording.dropped
    buffer, world, pose_source = moving_transforms(reader, rig_frame, recording.transforms, world_frame, odometry_topic)
    rig_from_camera = {name: recording.rig_from_camera(buffer, name) for name in recording.cameras}
    clouds = list_clouds(reader, lidar_topic)
    depths = list_depths(reader, rig_frame)
    rig_from_sensor = {}
    for cloud in clouds[:1]:
        try:
            rig_from_sensor["velodyne"] = buffer.lookup(rig_frame, cloud.frame_id, cloud.stamp_ns)
        except BagError as error:
            recording.warnings.append(f"the LiDAR is left out: {error}")
    frames = []
    lost: list[int] = []
    for stamp_ns, found in recording.groups:
        try:
            world_from_rig = buffer.lookup(world, rig_frame, stamp_ns)
        except BagError as error:
            dropped[f"no pose: {error.where}"] += len(found)
            lost.append(recording.ahead_ns(stamp_ns, found))
            continue
        assets = lidar_asset(clouds, buffer, world, world_from_rig, stamp_ns)
        if recording.first_camera in found and (near := _nearest(depths, stamp_ns, DEPTH_TOLERANCE_NS)):
            assets["depth"] = partial(load_depth, near.address)
        frames.append(Frame(stamp_ns, found, world_from_rig, assets))
    few = 10 * len(lost) < len(recording.groups)  # at the ends of a recording
    ahead = [recording.ahead_ns(*group) for group in recording.groups] if few else lost
    clock = buffer.clock_problem(", ".join(recording.topics.values()), ahead, "the time of recording")
    if not frames:
        cure = clock or "Record /tf (or odometry) and /tf_static together with the images"
        raise SequenceError(f"no image has a pose ({counted(dropped)})", where=str(reader.path), cure=cure)
    recording.warnings += [*filter(None, [clock]), *buffer.notes]
    provenance = recording_provenance(recording) | {"world_frame": world}
    if ground_frame:
        upright = buffer.lookup(ground_frame, world, frames[0].stamp_ns)
        frames = [replace(frame, world_from_rig=upright @ frame.world_from_rig) for frame in frames]
        provenance |= {"ground_frame": ground_frame, "floor": ground_height}
    return PosedSequence(
        name=reader.path.stem,
        cameras=recording.cameras,
        rig_from_camera=rig_from_camera,
        frames=frames,
        pose_source=pose_source,
        provenance=provenance,
        rig_from_sensor=rig_from_sensor,
    )


def turned_doubts(recording: Recording, sequence: PosedSequence) -> list[str]:
    """Find cameras whose images are turned by 180° against their poses: see `turned_pictures`."""
    found = []
    for name, camera in sequence.cameras.items():
        topic, frames = recording.topics[name], enumerate(sequence.frames)
        moments = [
            (f.stamp_ns, sequence.world_from_camera(i, name), partial(sequence.image, i, name)) for i, f in frames
        ]
        _, note = recording.reader.optical_frame(recording.frame_ids[name], topic)
        found.append(turned_doubt(topic, camera, moments, HANGS in note))
    return [*filter(None, found)]


def recording_provenance(recording: Recording) -> dict[str, object]:
    """Provenance of a sequence that was made from a bag."""
    reader = recording.reader
    return {
        "bag": reader.path.name,
        "image_topics": dict(recording.topics),
        "rig_frame": recording.rig_frame,
        "dropped_images": dict(recording.dropped),
        "skipped_messages": dict(reader.skipped),
        "losses": list(reader.losses),
        "warnings": list(recording.warnings),
    }


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a file, or a folder with metadata.yaml or files of bags."""
    if not path.is_dir():
        return names_bag(path)
    return any(names_bag(file) or file.name == "metadata.yaml" for file in path.iterdir())


def _open(path: Path, poses: str | None) -> PosedSequence:
    with BagReader(path) as reader:
        return sequence_from_bag(reader, poses)


SOURCE = Source("a bag (rosbag2 folder, .mcap, .db3 or ROS 1 .bag)", is_bag, _open)
