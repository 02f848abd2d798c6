"""`BagWriter`: writes rosbag2 recordings."""

import io
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags import interfaces
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from scene_completion_ros.bags.reader import TRANSFORM_TYPE, BagMessage, BagReader
from scene_completion_ros.errors import BagError

_UNLIMITED = interfaces.QosTime(2147483647, 4294967295)
# Players must offer /tf_static as it was recorded: latched, or late subscribers never get it.
LATCHED = interfaces.Qos(
    history=interfaces.QosHistory.KEEP_LAST,
    depth=1,
    reliability=interfaces.QosReliability.RELIABLE,
    durability=interfaces.QosDurability.TRANSIENT_LOCAL,
    deadline=_UNLIMITED,
    lifespan=_UNLIMITED,
    liveliness=interfaces.QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_UNLIMITED,
    avoid_ros_namespace_conventions=False,
)


_CHECKSUM_AT = 33  # in the record of a chunk of MCAP, behind kind, length, two times and its size


class _McapWriter(McapWriter):
    """Writes the checksum of each chunk, which rosbags leaves out: readers then find what was damaged later."""

    def close_chunk(self) -> None:
        place, checksum = self.bio.tell(), zlib.crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        self.bio.seek(place + _CHECKSUM_AT)
        self.bio.write(checksum.to_bytes(4, "little"))
        self.bio.seek(0, io.SEEK_END)


class _Writer(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: _McapWriter}  # noqa: RUF012 # of rosbags


class BagWriter:
    """Writes a new rosbag2 recording, MCAP.

    Use it as a context manager, which closes the recording also when an exception ends it. Raises BagError where the
    folder exists already. `path`: folder to be made; it must not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.typestore = get_typestore(Stores.LATEST)
        self._connections: dict[str, interfaces.Connection] = {}
        self._writer: Writer  # once it is open

    def __enter__(self) -> "BagWriter":
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the folder. Raises BagError where it exists already: nothing is overwritten."""
        try:
            self._writer = _Writer(self.path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except WriterError as error:
            raise BagError(str(error), where=str(self.path), cure="Name a new folder") from error

    def write(self, topic: str, msgtype: str, message: Any, stamp_ns: int, *, latched: bool = False) -> None:
        """Write one message.

        `topic`: topic name. A topic has one type. `msgtype`: "sensor_msgs/msg/Image" …; `message`: a message object of
        rosbags, its fields (see `made_message`), or the serialised message (CDR) as bytes; `stamp_ns`: bag time;
        `latched`: whether a player should offer the topic as transient local; /tf_static always is.
        """
        connection = self._connections.get(topic)
        if connection is None:
            qos = [LATCHED] if latched or topic.endswith("tf_static") else []
            connection = self._writer.add_connection(topic, msgtype, typestore=self.typestore, offered_qos_profiles=qos)
            self._connections[topic] = connection
        assert connection.msgtype == msgtype, f"{topic} is of type {connection.msgtype}"
        if isinstance(message, (bytes, bytearray, memoryview)):
            raw: bytes | memoryview = bytes(message)
        else:
            if isinstance(message, Mapping):
                message = made_message(self.typestore, msgtype, message)
            raw = self.typestore.serialize_cdr(message, msgtype)
        self._writer.write(connection, stamp_ns, raw)

    def close(self) -> None:
        """Write index and metadata.yaml."""
        self._writer.close()


def made_message(store: Typestore, kind: str, fields: Mapping[str, Any]) -> Any:
    """A message of a type: mappings become the messages in it, and what is left out is zero."""
    values = {}
    described: Any
    for name, (node, described) in store.fielddefs[kind][1]:
        if node is interfaces.Nodetype.NAME:
            values[name] = made_message(store, described, fields.get(name, {}))
        elif node is interfaces.Nodetype.BASE:
            values[name] = fields.get(name, 0)
        elif described[0][0] is interfaces.Nodetype.NAME:
            values[name] = [made_message(store, described[0][1], one) for one in fields[name]]
        else:
            values[name] = fields.get(name, np.zeros(described[1]))
    return store.types[kind](**values)


def header_fields(stamp_ns: int, frame_id: str) -> dict[str, Any]:
    """Fields of a std_msgs/Header."""
    return {"stamp": {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}, "frame_id": frame_id}


def cloud_fields(
    points: NDArray[Any],  # little-endian [N] or [N, C]
    layout: Iterable[tuple[str, int, int, int]],  # name, offset in bytes, datatype and count of each field of a point
    stamp_ns: int,
    frame_id: str,
) -> dict[str, Any]:
    """Fields of a sensor_msgs/PointCloud2."""
    point_step = points.itemsize * math.prod(points.shape[1:])
    return {
        "header": header_fields(stamp_ns, frame_id),
        "height": 1,
        "width": len(points),
        "fields": [dict(zip(("name", "offset", "datatype", "count"), field, strict=True)) for field in layout],
        "point_step": point_step,
        "row_step": point_step * len(points),
        "data": np.ascontiguousarray(points).reshape(-1).view(np.uint8),
        "is_dense": True,
    }


IMAGE_TOPIC = "/image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
STREET = "street"  # an upright frame below the camera: viewers keep z up, and an optical frame has it forward
STREET_BELOW_CAMERA = 1.65  # metres; RViz draws its ground there too


def write_image(recorded: BagMessage, output: BagWriter) -> None:
    """Write a recorded image, raw or compressed, under the name that the node has for it."""
    topic = f"{IMAGE_TOPIC}/compressed" if recorded.type == COMPRESSED_TYPE else IMAGE_TOPIC
    output.write(topic, recorded.type, recorded.cdr, recorded.stamp_ns)


def write_transforms(reader: BagReader, image_topic: str, output: BagWriter) -> None:
    """Write all transforms of a recording, and where `STREET` is below the camera, unless the recording has it.

    Latched ones become one message a topic: late readers of a latched topic get no more than the last message.
    """
    image = next(iter(reader.readable([image_topic], lambda message: message.header)), None)
    if image is None:
        return
    recorded_image, header = image
    latched: dict[str, dict[str, Any]] = {"/tf_static": {}}  # by topic and child frame
    frames: set[str] = set()
    for recorded, _ in reader.readable(reader.topics_of_type(TRANSFORM_TYPE), lambda message: message):
        message: Any = output.typestore.deserialize_cdr(recorded.cdr, TRANSFORM_TYPE)
        frames |= {name for one in message.transforms for name in (one.header.frame_id, one.child_frame_id)}
        if recorded.topic.endswith("tf_static"):
            latched.setdefault(recorded.topic, {}).update({one.child_frame_id: one for one in message.transforms})
        else:
            output.write(recorded.topic, TRANSFORM_TYPE, message, recorded.stamp_ns)
    if header.frame_id and STREET not in frames:
        latched["/tf_static"][STREET] = _street(output.typestore, reader.frame_of(header), recorded_image.stamp_ns)
    for topic, transforms in latched.items():
        if transforms:
            message = output.typestore.types[TRANSFORM_TYPE](transforms=list(transforms.values()))
            output.write(topic, TRANSFORM_TYPE, message, recorded_image.stamp_ns)


def _street(store: Typestore, camera_frame: str, stamp_ns: int) -> Any:
    """The TransformStamped from an optical frame to `STREET`: x forward, y left, z up."""
    below = {"translation": {"y": STREET_BELOW_CAMERA}, "rotation": {"x": 0.5, "y": -0.5, "z": 0.5, "w": 0.5}}
    fields = {"header": header_fields(stamp_ns, camera_frame), "child_frame_id": STREET, "transform": below}
    return made_message(store, "geometry_msgs/msg/TransformStamped", fields)
