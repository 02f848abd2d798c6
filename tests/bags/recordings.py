"""Messages and small recordings that the tests of bags and sequences are made of."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from scene_completion_ros.bags.writer import BagWriter, header_fields, made_message
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles

STORE = get_typestore(Stores.LATEST)
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
WIDTH, HEIGHT = 64, 48


def make(name: str, /, **fields: Any) -> Any:
    """A message by its type name; what is left out is zero."""
    package, kind = name.split("/")
    return made_message(STORE, f"{package}/msg/{kind}", fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    return make("std_msgs/Header", **header_fields(stamp_ns, frame_id))


def image(
    data: NDArray[Any],
    encoding: str,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    step: int | None = None,
    big_endian: bool = False,
    stamp_ns: int = START,
    frame_id: str = "camera_optical",
) -> Any:
    """sensor_msgs/Image; `data` are the bytes as sent."""
    flat = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return make(
        "sensor_msgs/Image",
        header=header_fields(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=flat.size // height if step is None else step,
        data=flat,
    )


def compressed(content: bytes, form: str, *, stamp_ns: int = START, frame_id: str = "camera_optical") -> Any:
    data = np.frombuffer(content, np.uint8)
    return make("sensor_msgs/CompressedImage", header=header_fields(stamp_ns, frame_id), format=form, data=data)


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A smooth colourful picture [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def jpeg(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(seed, width, height))[1].tobytes())


HALL_CAMERA = Camera(160.0, 160.0, 159.5, 99.5, 320, 200)


def hall(world_from_camera: RigidTransform) -> NDArray[np.uint8]:
    """Render a hall, floor at z = 0 and ceiling at z = 4 m, as `HALL_CAMERA` sees it, uint8 RGB [H, W, 3]."""
    rays = HALL_CAMERA.unproject(HALL_CAMERA.pixel_centres()) @ world_from_camera.rotation.T
    height, up = world_from_camera.translation[2], rays[..., 2]
    along = np.minimum(np.where(up < 0.0, -height, 4.0 - height) / np.where(up == 0.0, 1e-9, up), 60.0)
    places = (world_from_camera.translation + along[..., None] * rays) / 0.1
    x, y = (np.ascontiguousarray(places[..., axis] % 511.0, dtype=np.float32) for axis in (0, 1))
    rough = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8), (0, 0), 1.0)
    grey = cv2.remap(cv2.equalizeHist(rough), x, y, cv2.INTER_LINEAR)
    return np.repeat(np.where(along < 12.0, grey, 128).astype(np.uint8)[..., None], 3, axis=2)


def camera_info(
    *,
    stamp_ns: int = START,
    frame_id: str = "camera_optical",
    width: int = WIDTH,
    height: int = HEIGHT,
    f: float = 40.0,
    centre: tuple[float, float] = (31.5, 23.5),
    p3: float = 0.0,
) -> Any:
    cx, cy = centre
    return make(
        "sensor_msgs/CameraInfo",
        header=header_fields(stamp_ns, frame_id),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([f, 0, cx, 0, f, cy, 0, 0, 1]),
        r=np.eye(3).reshape(-1),
        p=np.array([f, 0, cx, p3, 0, f, cy, 0, 0, 0, 1, 0]),
    )


def transform(
    parent: str,
    child: str,
    xyz: tuple[float, float, float],
    stamp_ns: int = START,
    yaw: float = 0.0,
    scale: float = 1.0,
    turn: RigidTransform | None = None,
) -> Any:
    """tf2_msgs/TFMessage with one transform, turned by `yaw` or as `turn`; `scale` breaks its quaternion."""
    rotation = {"z": scale * math.sin(yaw / 2), "w": scale * math.cos(yaw / 2)}
    if turn is not None:
        rotation = dict(zip("xyzw", turn.quaternion.tolist(), strict=True))
    body = {"translation": dict(zip("xyz", xyz, strict=True)), "rotation": rotation}
    stamped = {"header": header_fields(stamp_ns, parent), "child_frame_id": child, "transform": body}
    return make("tf2_msgs/TFMessage", transforms=[stamped])


def odometry(parent: str, child: str, xyz: tuple[float, float, float], stamp_ns: int) -> Any:
    pose = {"position": dict(zip("xyz", xyz, strict=True)), "orientation": {"w": 1.0}}
    fields = {"header": header_fields(stamp_ns, parent), "child_frame_id": child, "pose": {"pose": pose}}
    return make("nav_msgs/Odometry", **fields)


def string(text: str) -> Any:
    return make("std_msgs/String", data=text)


class Drive:
    """A drive of a camera along x at 1 m per second, 10 images a second, written piece by piece."""

    def __init__(self, writer: BagWriter) -> None:
        self.writer = writer

    def static(
        self,
        parent: str = "base_link",
        child: str = "camera_optical",
        x: float = 0.2,
        y: float = 0.0,
        turn: RigidTransform | None = None,
    ) -> None:
        """Mount a sensor on the base: by default as a camera that looks ahead."""
        message = transform(parent, child, (x, y, 1.0), turn=turn or OPTICAL_FROM_FORWARD.inverse())
        self.writer.write("/tf_static", "tf2_msgs/msg/TFMessage", message, START)

    def pose(self, index: int, *, x: float | None = None) -> None:
        stamp = START + index * SECOND // 10
        position = (index / 10 if x is None else x, 0.0, 0.0)
        self.writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base_link", position, stamp), stamp)

    def odometry(self, index: int, child: str = "base_link", topic: str = "/odom") -> None:
        stamp = START + index * SECOND // 10
        message = odometry("odom", child, (index / 10, 0.0, 0.0), stamp)
        self.writer.write(topic, "nav_msgs/msg/Odometry", message, stamp)

    def image(
        self,
        index: int,
        *,
        camera: str = "camera",
        frame: str = "camera_optical",
        stamp_ns: int | None = None,
        delay_ns: int = 0,
        topic: str = "",
    ) -> None:
        bag_stamp = START + index * SECOND // 10
        stamp = bag_stamp + delay_ns if stamp_ns is None else stamp_ns
        message = compressed(jpeg(index), "jpeg", stamp_ns=stamp, frame_id=frame)
        topic = topic or f"/{camera}/image_raw/compressed"
        self.writer.write(topic, "sensor_msgs/msg/CompressedImage", message, bag_stamp)

    def info(self, index: int, *, camera: str = "camera", frame: str = "camera_optical", **fields: Any) -> None:
        stamp = START + index * SECOND // 10
        message = camera_info(stamp_ns=stamp, frame_id=frame, **fields)
        self.writer.write(f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", message, stamp)

    def moment(self, index: int, *, x: float | None = None) -> None:
        """All that a recording with one camera has of a moment."""
        self.pose(index, x=x)
        self.image(index)
        self.info(index)


def recorded(path: Path, fill: Callable[[Drive], object]) -> Path:
    """A drive that `fill` writes."""
    with BagWriter(path) as writer:
        fill(Drive(writer))
    return path


def turning(made: Drive, *, mount: RigidTransform, turned: bool) -> None:
    """Eight images of a drive along a bend through a hall, of an upright camera that is mounted so by tf."""
    camera = HALL_CAMERA
    made.static(turn=mount)
    made.info(0, width=camera.width, height=camera.height, f=camera.fx, centre=(camera.cx, camera.cy))
    for index in range(8):
        stamp, yaw, x = START + index * SECOND // 10, math.radians(3.0 * index), 0.35 * index
        made.writer.write("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base_link", (x, 0, 0), stamp, yaw), stamp)
        base = RigidTransform(rotation_of_angles(0.0, 0.0, yaw), np.array([x, 0.0, 0.0]))
        seen = hall(base @ RigidTransform(OPTICAL_FROM_FORWARD.rotation.T, np.array([0.2, 0.0, 1.0])))
        content = cv2.imencode(".png", seen[::-1, ::-1] if turned else seen)[1].tobytes()
        message = compressed(content, "png", stamp_ns=stamp)
        made.writer.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, stamp)


def record(path: Path, count: int = 5) -> Path:
    """A complete small drive with one camera."""
    return recorded(path, lambda drive: [drive.static(), *map(drive.moment, range(count))])


class PackedWriter(BagWriter):
    """Writes as rosbag2 is asked to: compressed by file or by message, or sqlite3, as older recorders do."""

    def __init__(
        self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP, mode: CompressionMode = CompressionMode.NONE
    ) -> None:
        super().__init__(path)
        self._plugin, self._mode = plugin, mode

    def open(self) -> None:
        self._writer = Writer(self.path, version=9, storage_plugin=self._plugin)
        self._writer.set_compression(self._mode, CompressionFormat.ZSTD)
        self._writer.open()
