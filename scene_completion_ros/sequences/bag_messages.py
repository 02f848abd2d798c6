"""Images and point clouds that stay in their bag until they are asked for."""

import os
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import CLOUD_TYPE, IMAGE_TYPES, BagMessage, BagReader
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.clouds import coordinates, read_xyz
from scene_completion_ros.messages.images import DEPTH_ENCODINGS, decode_depth, decode_image
from scene_completion_ros.messages.transform_buffer import TransformBuffer, stamp_of
from scene_completion_ros.sequences.posed_sequence import ArrayLoader

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
            found = reader.messages([self.topic], start_ns=self.bag_stamp_ns, stop_ns=self.bag_stamp_ns + 1)
            for recorded in found:
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
        """The JPEG or PNG file inside a compressed message, None for a raw one."""
        message = self.recorded.message()
        if not hasattr(message, "format"):
            return None
        content = bytes(message.data)
        return content, ".jpg" if content.startswith(b"\xff\xd8") else ".png"


@dataclass(frozen=True, eq=False)
class BagCloud:
    """Loader of a point cloud of a bag: float32 [N, 3] in the rig frame at the time of its frame."""

    recorded: RecordedMessage
    rig_from_lidar: RigidTransform

    def __call__(self) -> NDArray[np.float32]:
        """Read and move into the rig frame."""
        return np.asarray(self.rig_from_lidar.apply(read_xyz(self.recorded.message())), dtype=np.float32)


@dataclass(frozen=True)
class BagDepth:
    """Loader of a depth image of a bag: float32 [H, W] in metres."""

    recorded: RecordedMessage

    def __call__(self) -> NDArray[np.float32]:
        """Read and decode."""
        return decode_depth(self.recorded.message())


def list_depths(reader: BagReader, frame_id: str) -> list[tuple[int, RecordedMessage]]:
    """Stamps and addresses of depth images in the frame of a camera, sorted by stamp; of several topics the first."""
    for topic in reader.topics_of_type(IMAGE_TYPES[0]):
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
    return {"depth": BagDepth(min(near, key=lambda one: abs(one[0] - stamp_ns))[1])} if near else {}


def list_clouds(reader: BagReader, lidar_topic: str | None) -> list[tuple[int, str, RecordedMessage]]:
    """Stamps, frames and addresses of the usable point clouds, sorted by stamp."""
    topics = reader.topics_of_type(CLOUD_TYPE)
    if lidar_topic is not None:
        if lidar_topic not in topics:
            what = f"no PointCloud2 topic {lidar_topic!r}"
            raise BagError(what, where=str(reader.path), cure=f"Name one of: {', '.join(topics) or 'none'}")
        topics = [lidar_topic]
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
    return {"lidar": BagCloud(recorded, rig_from_lidar), "lidar_pose": partial(np.asarray, rig_from_lidar.matrix)}


_READING = threading.Lock()  # one reader has one file position


@lru_cache(maxsize=4)
def _shared_reader(path: Path, process_id: int) -> BagReader:  # noqa: ARG001 (part of the key)
    """Open reader of a bag; each process has its own, because a forked one would share the file position."""
    reader = BagReader(path)
    reader.open()
    return reader
