"""Posed sequences from bags: images with CameraInfo, poses from tf or odometry, LiDAR where there is some."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.clouds import read_xyz
from scene_completion_ros.bags.images import check_image, decode_image
from scene_completion_ros.bags.reader import CLOUD_TYPE, ODOMETRY_TYPE, BagReader
from scene_completion_ros.bags.transforms import TransformBuffer, stamp_of
from scene_completion_ros.errors import BagError, ImageError, SequenceError
from scene_completion_ros.geometry.camera_files import camera_from_projection
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, ImageSource, PosedSequence

SYNC_TOLERANCE_NS = 1_000_000  # images closer in time than this belong to one frame
LIDAR_TOLERANCE_NS = 60_000_000  # half a revolution of a 10 Hz LiDAR, and a little
BASELINE_TOLERANCE_M = 0.03  # between tf and CameraInfo, before they are said to contradict each other
_SUFFIXES = ("compressed", "image_raw", "image_rect", "image_color", "image_rect_color", "image_mono", "image")


@dataclass(frozen=True)
class _Recorded:
    """Address of one message in a bag: unlike an open reader it can be sent to another process."""

    path: Path
    topic: str
    bag_stamp_ns: int
    occurrence: int  # of several messages of the topic with one bag time

    def message(self) -> Any:
        with _READING:
            reader = _shared_reader(self.path, os.getpid())
            found = reader.messages([self.topic], start_ns=self.bag_stamp_ns, stop_ns=self.bag_stamp_ns + 1)
            for index, recorded in enumerate(found):
                if index == self.occurrence:
                    return recorded.message
        raise BagError(
            f"no message {self.occurrence} of {self.topic} at bag time {self.bag_stamp_ns} ns",
            where=str(self.path),
            cure="The bag was changed since the sequence was made from it",
        )


@dataclass(frozen=True)
class BagImage:
    """Image source that decodes a message of a bag when called."""

    recorded: _Recorded

    def __call__(self) -> NDArray[np.uint8]:
        """Read and decode: uint8 RGB [H, W, 3]."""
        return decode_image(self.recorded.message())

    def encoded(self) -> tuple[bytes, str] | None:
        """The JPEG or PNG file inside a compressed message, None for a raw one."""
        message = self.recorded.message()
        if not hasattr(message, "format"):
            return None
        content = bytes(message.data)
        return content, ".jpg" if content.startswith(b"\xff\xd8") else ".png"


@dataclass(frozen=True, eq=False)
class BagCloud:
    """Loader of a point cloud of a bag: float32 [N, 3] in the rig frame at the time of its frame."""

    recorded: _Recorded
    rig_from_lidar: RigidTransform

    def __call__(self) -> NDArray[np.float32]:
        """Read and move into the rig frame."""
        return np.asarray(self.rig_from_lidar.apply(read_xyz(self.recorded.message())), dtype=np.float32)


@dataclass
class _Stream:
    """The usable images of one camera: header stamps, strictly increasing, and where to find the messages."""

    topic: str
    frame_id: str
    images: list[tuple[int, _Recorded]]


def sequence_from_bag(
    reader: BagReader,
    image_topics: Sequence[str] | None = None,
    *,
    max_gap_s: float = 0.2,
    world_frame: str | None = None,
    odometry_topic: str | None = None,
    lidar_topic: str | None = None,
) -> PosedSequence:
    """Make a posed sequence of the images of a bag.

    The rig frame is the optical frame of the first image topic. The world is the topmost frame above it in tf, or the
    fixed frame of the odometry where tf does not say how the camera moves. Images that come at one time (1 ms) make one
    frame. Images and clouds stay in the bag and are read when asked for.

    Args:
        reader: An open bag.
        image_topics: Topics to use; by default all with a CameraInfo, of raw and compressed twins the compressed one.
        max_gap_s: Largest distance in time of the two poses between which is interpolated. Images without are dropped.
        world_frame: Frame to take as the world.
        odometry_topic: nav_msgs/Odometry to use where tf is not enough; the only one by default.
        lidar_topic: PointCloud2 to attach as "lidar"; the only one by default.

    Raises:
        BagError: No usable image topic, CameraInfo, or poses: says what to record.
        SequenceError: No image is left; says what happened to them.
    """
    topics = _image_topics(reader, image_topics)
    names = _camera_names(topics)
    cameras = {names[topic]: reader.camera_for(topic) for topic in topics}
    dropped: Counter[str] = Counter()
    streams = {names[topic]: _stream(reader, topic, dropped) for topic in topics}
    rig_frame = streams[names[topics[0]]].frame_id
    buffer, world, pose_source = _poses(reader, rig_frame, world_frame, odometry_topic)
    warnings: list[str] = []
    first_stamp = min(stream.images[0][0] for stream in streams.values())
    rig_from_camera = {
        name: _rig_from_camera(reader, buffer, rig_frame, stream, topics[0], first_stamp, warnings)
        for name, stream in streams.items()
    }
    max_gap_ns = round(max_gap_s * 1e9)
    clouds = _clouds(reader, lidar_topic)
    frames = []
    for stamp_ns, images in _grouped(streams):
        try:
            world_from_rig = buffer.lookup(world, rig_frame, stamp_ns, max_gap_ns)
        except BagError as error:
            dropped[f"no pose: {error.where}"] += len(images)
            continue
        assets = _lidar_asset(clouds, buffer, world, world_from_rig, stamp_ns, max_gap_ns)
        frames.append(Frame(stamp_ns, images, world_from_rig, assets))
    if not frames:
        raise SequenceError(
            f"no image has a pose ({_counted(dropped)})",
            where=str(reader.path),
            cure="Record /tf (or odometry) and /tf_static together with the images",
        )
    return PosedSequence(
        name=reader.path.stem,
        cameras=cameras,
        rig_from_camera=rig_from_camera,
        frames=frames,
        pose_source=pose_source,
        metric_scale=True,
        provenance={
            "bag": reader.path.name,
            "image_topics": {names[topic]: topic for topic in topics},
            "world_frame": world,
            "rig_frame": rig_frame,
            "dropped_images": dict(dropped),
            "skipped_messages": dict(reader.skipped),
            "losses": list(reader.losses),
            "warnings": warnings,
        },
    )


def _image_topics(reader: BagReader, named: Sequence[str] | None) -> list[str]:
    if named is not None:
        chosen = [reader.choose_image_topic(name) for name in named]
        if len(set(chosen)) != len(chosen) or not chosen:
            raise BagError(f"image topics {list(named)}", where=str(reader.path), cure="Name each topic once")
        return chosen
    found = reader.image_topics()
    single = [topic for topic in found if f"{topic}/compressed" not in found]
    usable = [topic for topic in single if reader.camera_info_topic(topic) is not None]
    if not usable:
        reader.camera_for(reader.choose_image_topic())  # raises: no image topic, several, or no CameraInfo
    return usable


def _camera_names(topics: Sequence[str]) -> dict[str, str]:
    """Short, distinct camera names: "/camera/left/image_raw/compressed" -> "camera_left"."""
    names: dict[str, str] = {}
    for topic in topics:
        parts = [part for part in topic.split("/") if part]
        while len(parts) > 1 and parts[-1] in _SUFFIXES:
            parts.pop()
        base = "_".join(parts)
        names[topic] = base if base not in names.values() else "_".join(part for part in topic.split("/") if part)
    return names


def _stream(reader: BagReader, topic: str, dropped: Counter[str]) -> _Stream:
    """List the usable images of a topic; those whose header stamp does not advance are dropped and counted."""
    images: list[tuple[int, _Recorded]] = []
    frame_ids: Counter[str] = Counter()
    occurrences: Counter[int] = Counter()
    for recorded in reader.messages([topic]):
        occurrence = occurrences[recorded.stamp_ns]
        occurrences[recorded.stamp_ns] += 1
        try:
            message = recorded.message
            check_image(message)
        except (BagError, ImageError) as error:
            dropped[f"{topic}: {error.what.partition(' (')[0].partition(', but ')[0]}"] += 1
            continue
        stamp_ns = stamp_of(message.header) or recorded.stamp_ns
        if images and stamp_ns <= images[-1][0]:
            dropped[f"{topic}: header stamp does not advance"] += 1
            continue
        frame_ids[str(message.header.frame_id).strip("/")] += 1
        images.append((stamp_ns, _Recorded(reader.path.resolve(), topic, recorded.stamp_ns, occurrence)))
    if not images:
        raise SequenceError(
            f"no usable image on {topic} ({_counted(dropped)})", where=str(reader.path), cure="Use another topic"
        )
    if len(frame_ids) > 1 or not frame_ids.most_common(1)[0][0]:
        raise BagError(
            f"field header.frame_id of the images is {sorted(frame_ids)}",
            where=f"{reader.path}, topic {topic}",
            cure="Images of one camera need one frame name that is not empty",
        )
    return _Stream(topic, next(iter(frame_ids)), images)


def _poses(
    reader: BagReader, rig_frame: str, world_frame: str | None, odometry_topic: str | None
) -> tuple[TransformBuffer, str, str]:
    """Buffer that knows how the rig moves, name of the world frame, and a description of the source."""
    buffer = reader.tf_buffer()
    world = world_frame or buffer.root_of(rig_frame)
    if buffer.has_path(world, rig_frame) and not buffer.is_static(world, rig_frame):
        return buffer, world, f"tf {world} -> {rig_frame}"
    odometries = [odometry_topic] if odometry_topic else reader.topics_of_type(ODOMETRY_TYPE)
    listed = ", ".join(odometries) or "none"
    if len(odometries) != 1:
        raise BagError(
            f"tf does not say how {rig_frame!r} moves, and odometry topics are: {listed}",
            where=str(reader.path),
            cure="Record /tf and /tf_static, or record (or name) one odometry topic",
        )
    buffer = reader.tf_buffer(odometry_topic=odometries[0])
    world = world_frame or buffer.root_of(rig_frame)
    if not buffer.has_path(world, rig_frame) or buffer.is_static(world, rig_frame):
        raise BagError(
            f"neither tf nor {listed} says how {rig_frame!r} moves",
            where=str(reader.path),
            cure=f"Record the static transform to the camera; known frames: {', '.join(buffer.frames) or 'none'}",
        )
    return buffer, world, f"{odometries[0]} and tf, {world} -> {rig_frame}"


def _rig_from_camera(
    reader: BagReader,
    buffer: TransformBuffer,
    rig_frame: str,
    stream: _Stream,
    first_topic: str,
    stamp_ns: int,
    warnings: list[str],
) -> RigidTransform:
    """Pose of a camera in the rig: from tf, or from P of a rectified stereo pair (whose images share one frame)."""
    if stream.topic == first_topic:
        return RigidTransform.identity()
    by_projection = _rig_from_camera_by_projection(reader, first_topic, stream.topic)
    if stream.frame_id == rig_frame:
        if by_projection is None:
            raise BagError(
                f"two cameras in one frame {rig_frame!r}, and field p of their CameraInfo gives no baseline",
                where=f"{reader.path}, topic {stream.topic}",
                cure="Give each camera its own frame in /tf_static, or publish P of the stereo calibration",
            )
        return by_projection
    if not buffer.has_path(rig_frame, stream.frame_id) and by_projection is not None:
        return by_projection
    by_tf = buffer.lookup(rig_frame, stream.frame_id, stamp_ns)
    if by_projection is not None:
        difference = float(np.linalg.norm(by_tf.translation - by_projection.translation))
        if difference > BASELINE_TOLERANCE_M:
            warnings.append(
                f"{stream.topic}: tf and field p of CameraInfo place it {difference:.3f} m apart; tf is used"
            )
    return by_tf


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


def _grouped(streams: dict[str, _Stream]) -> list[tuple[int, dict[str, ImageSource]]]:
    """Images of all cameras by time: (stamp, camera -> image); a frame's stamp is that of its earliest image."""
    everything = sorted(
        ((stamp, name, recorded) for name, stream in streams.items() for stamp, recorded in stream.images),
        key=lambda item: item[0],
    )
    groups: list[tuple[int, dict[str, ImageSource]]] = []
    for stamp_ns, name, recorded in everything:
        if groups and stamp_ns - groups[-1][0] <= SYNC_TOLERANCE_NS and name not in groups[-1][1]:
            groups[-1][1][name] = BagImage(recorded)
        elif not groups or stamp_ns > groups[-1][0]:
            groups.append((stamp_ns, {name: BagImage(recorded)}))
    return groups


def _clouds(reader: BagReader, lidar_topic: str | None) -> list[tuple[int, str, _Recorded]]:
    """Stamps, frames and addresses of the point clouds, sorted by stamp."""
    topics = reader.topics_of_type(CLOUD_TYPE)
    if lidar_topic is not None:
        if lidar_topic not in topics:
            raise BagError(
                f"no PointCloud2 topic {lidar_topic!r}",
                where=str(reader.path),
                cure=f"Name one of: {', '.join(topics) or 'none'}",
            )
        topics = [lidar_topic]
    if len(topics) != 1:
        return []
    clouds = []
    occurrences: Counter[int] = Counter()
    for recorded in reader.messages(topics):
        occurrence = occurrences[recorded.stamp_ns]
        occurrences[recorded.stamp_ns] += 1
        try:
            header = recorded.message.header
        except BagError:
            continue
        address = _Recorded(reader.path.resolve(), topics[0], recorded.stamp_ns, occurrence)
        clouds.append((stamp_of(header) or recorded.stamp_ns, str(header.frame_id), address))
    return sorted(clouds, key=lambda cloud: cloud[0])


def _lidar_asset(
    clouds: Sequence[tuple[int, str, _Recorded]],
    buffer: TransformBuffer,
    world: str,
    world_from_rig: RigidTransform,
    stamp_ns: int,
    max_gap_ns: int,
) -> dict[str, ArrayLoader]:
    """The nearest cloud, moved from its own time into the rig frame at the frame's time."""
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
    return {"lidar": BagCloud(recorded, world_from_rig.inverse() @ world_from_lidar)}


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in counter.most_common()) or "none seen"


_READING = threading.Lock()  # one reader has one file position


@lru_cache(maxsize=4)
def _shared_reader(path: Path, process_id: int) -> BagReader:  # noqa: ARG001 (part of the key)
    """Open reader of a bag; each process has its own, because a forked one would share the file position."""
    reader = BagReader(path)
    reader.open()
    return reader
