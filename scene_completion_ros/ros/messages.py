"""Conversion between the package's types and ROS messages."""

import struct
from array import array
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField
from std_msgs.msg import Header

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cells import GroundSurface
from scene_completion_ros.inference.evidence import NO_PLANE, WARNING, WHY
from scene_completion_ros.mapping.ground_map import GroundMap, voxels_to_bytes
from scene_completion_ros.ros import conversions
from scene_completion_ros.ros.conversions import with_data
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE, VOXEL_CLOUD_FIELDS
from scene_completion_ros.voxels.cloud_kernel import write_cloud
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

EVIDENCE = "evidence"  # name of a status of `processing_time_message`
# What describes something that stays: late readers that ask for it get the last message.
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def message_class(kind: str, topic: str) -> Any:
    """The rclpy class of a type such as "sensor_msgs/msg/Imu". Raises SceneCompletionError if it is not installed."""
    package, _, name = kind.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        what = f"messages of type {kind} are not installed"
        cure = f"Install the package {package}, or leave the topic out"
        raise SceneCompletionError(what, where=f"topic {topic}", cure=cure) from None


def stamp_nanoseconds(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time (or of a ROS 1 time as rosbags reads it)."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_message(stamp_ns: int) -> Any:
    """The builtin_interfaces/Time of a time in nanoseconds."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header_message(stamp_ns: int, frame_id: str) -> Header:
    """The std_msgs/Header of a stamp in nanoseconds and a frame."""
    return Header(stamp=stamp_message(stamp_ns), frame_id=frame_id)


def data_of_size(message: Any, size: int) -> NDArray[np.uint8]:
    """The field ``data`` of a message, made so many bytes long: memory to write to, with whatever was there before."""
    data: array[int] = message.data
    del data[size:]
    data.frombytes(bytes(size - len(data)))
    return np.frombuffer(data, np.uint8)


def processing_time_message(
    times_ms: Mapping[str, float],  # milliseconds by stage
    evidence: Mapping[str, float | str],  # `Completion.summary` of the image
    stamp_ns: int,
    frame_id: str,
) -> Any:
    """What it took and what it rests on, as a DiagnosticArray with the header of the voxels: a status each."""
    values = [KeyValue(key=stage, value=f"{milliseconds:.3f}") for stage, milliseconds in times_ms.items()]
    times = DiagnosticStatus(name="processing time", message="ms", values=values)
    values = [KeyValue(key=key, value=str(value)) for key, value in evidence.items()]
    statuses = [times, DiagnosticStatus(name=EVIDENCE, values=values)]
    return DiagnosticArray(header=header_message(stamp_ns, frame_id), status=statuses)


def processing_times(message: Any) -> dict[str, float]:
    """Milliseconds by stage that a message of `processing_time_message` holds."""
    return {value.key: float(value.value) for value in message.status[0].values}


def evidence_of(message: Any) -> dict[str, float | str]:
    """The `Completion.summary` of the image in such a message."""
    statuses = (status for status in message.status if status.name == EVIDENCE)
    values = [(value.key, value.value) for status in statuses for value in status.values]
    return {key: value if key in (WARNING, WHY, NO_PLANE) else float(value) for key, value in values}


def odometry_message(pose: RigidTransform, stamp_ns: int, frame_id: str, child_frame_id: str) -> Any:
    """A pose of `child_frame_id` in `frame_id` as nav_msgs/Odometry."""
    message = Odometry(header=header_message(stamp_ns, frame_id), child_frame_id=child_frame_id)
    message.pose.pose = _pose_message(pose)
    return message


def voxels_message(
    voxels: SemanticVoxels,  # completed voxels, N of them occupied; their stamp becomes the message's
    frame_id: str,
    # Pose of the grid in the frame of the points; None where that is the optical frame of the image.
    frame_from_grid: RigidTransform | None = None,
    *,
    threads: int | None = None,  # CPU threads; None for all that this process may use
    # An older message of this function that is no longer needed: its memory is used again, which the system would
    # otherwise have to clear.
    into: Any = None,
) -> Any:
    """Occupied voxels as a PointCloud2 of 24-byte points (see `voxels.cloud`).

    The colour is that of the class, or of the height where there is only one class. Returns sensor_msgs/PointCloud2
    with N points.
    """
    count, point_step = len(voxels), VOXEL_CLOUD_DTYPE.itemsize
    message = into or PointCloud2(
        height=1,
        fields=conversions.point_fields(VOXEL_CLOUD_FIELDS),
        is_bigendian=False,
        point_step=point_step,
        is_dense=True,
    )
    message.header = header_message(voxels.stamp_ns, frame_id)
    message.width, message.row_step = count, point_step * count
    write_cloud(voxels, data_of_size(message, point_step * count), frame_from_grid, threads=threads)
    return message


def elevation_message(ground: GroundSurface, stamp_ns: int, frame_id: str) -> Any:
    """The ground ahead of a camera.

    Returns sensor_msgs/PointCloud2 of x, y, z and deviation (float32), organised: a row for each distance from the
    camera, a column for each place from right to left. NaN where there is no ground, or nothing is known of it.
    """
    points = np.concatenate([ground.points, ground.deviation[..., None]], axis=-1).astype("<f4")
    names = ("x", "y", "z", "deviation")
    fields = [(name, 4 * place, PointField.FLOAT32, 1) for place, name in enumerate(names)]
    message = conversions.cloud_message(points.reshape(-1, len(names)), fields, header_message(stamp_ns, frame_id))
    message.height, message.width = ground.deviation.shape
    message.row_step, message.is_dense = message.point_step * message.width, False
    return message


def image_message(image_rgb: NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
    """An RGB image [H, W, 3] as an rgb8 message."""
    return conversions.image_message(image_rgb, "rgb8", header_message(stamp_ns, frame_id))


def compressed_image_message(image_rgb: NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Any:
    """An RGB image [H, W, 3] as a JPEG message."""
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    message = CompressedImage(header=header_message(stamp_ns, frame_id), format="rgb8; jpeg compressed bgr8")
    return with_data(message, jpeg)


def camera_info_message(camera: Camera, stamp_ns: int, frame_id: str) -> Any:
    """The CameraInfo of a camera; its projection matrix is that of the camera without distortion and rotation."""
    distorted = camera.distortion_model != "none"
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    return CameraInfo(
        header=header_message(stamp_ns, frame_id),
        width=camera.width,
        height=camera.height,
        distortion_model=camera.distortion_model if distorted else "plumb_bob",
        d=[float(value) for value in camera.distortion] if distorted else [0.0] * 5,
        k=[float(value) for value in (fx, 0, cx, 0, fy, cy, 0, 0, 1)],
        r=[float(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)],
        p=[float(value) for value in (fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0)],
    )


def voxel_grid_message(voxels: SemanticVoxels, frame_id: str) -> Any:
    """All voxels, one byte each (see `dense_grid`), as an image of X rows and Y * Z columns.

    Returns sensor_msgs/Image, mono8. Raises GridError where there are more classes than a byte can hold. `voxels`:
    completed voxels; their stamp becomes the message's; `frame_id`: the frame in which `dense_grid_json` places
    them.
    """
    header = header_message(voxels.stamp_ns, frame_id)
    return conversions.image_message(voxels_to_bytes(voxels).reshape(voxels.grid.shape[0], -1), "mono8", header)


def occupancy_grid_message(
    ground: GroundMap, stamp_ns: int, frame_id: str, frame_from_upright: RigidTransform | None = None
) -> Any:
    """A map of the ground. Returns nav_msgs/OccupancyGrid.

    `frame_id`: the frame that the map is published in; `frame_from_upright`: pose of the map's upright frame in that
    frame; None where they are the same. Readers such as Nav2's StaticLayer understand nothing but a shift in x and y.
    """
    stamp = stamp_message(stamp_ns)
    rows, columns = ground.cells.shape
    frame_from_upright = frame_from_upright or RigidTransform.identity()
    corner = RigidTransform(np.eye(3), np.array([*ground.origin, 0.0]))
    message = OccupancyGrid(
        header=Header(stamp=stamp, frame_id=frame_id),
        info=MapMetaData(
            map_load_time=stamp,
            resolution=ground.resolution,
            width=columns,
            height=rows,
            origin=_pose_message(frame_from_upright @ corner),
        ),
    )
    return with_data(message, ground.cells)


def header_of(cdr: bytes) -> tuple[int, str]:
    """Stamp in nanoseconds and frame of a serialised message (CDR, little-endian) that begins with a header."""
    seconds, nanoseconds, size = struct.unpack_from("<4xiII", cdr)
    return seconds * 1_000_000_000 + nanoseconds, cdr[16 : 15 + size].decode()


def _pose_message(pose: RigidTransform) -> Any:
    x, y, z = pose.translation.tolist()
    q_x, q_y, q_z, q_w = pose.quaternion.tolist()
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=q_x, y=q_y, z=q_z, w=q_w))
