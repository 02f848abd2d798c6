"""Images and clouds between arrays and messages: by `cv_bridge` and `sensor_msgs_py` where a ROS distribution has them.

An installation from wheels has neither, and neither can do all that robots send. Our own conversions then take their
place, with the same result: `messages.images` and `voxels.cloud`, which also read all recordings.
"""

import math
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from scene_completion_ros.messages.images import check_image, decode_image

# Encodings that `CvBridge` decodes right in all distributions, and bytes a pixel. It misreads padded rows, fails at 16
# bits of the other byte order with NumPy 2, lacks some YUV encodings, and cannot decode a JPEG at a smaller size.
BY_CV_BRIDGE = {"mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4} | {
    f"bayer_{pattern}8": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg")
}


def to_rgb(message: Any, shrink: int = 1) -> NDArray[np.uint8]:
    """The picture in an image message, uint8 RGB [H, W, 3], in memory of its own; see `decode_image`."""
    size = None if hasattr(message, "format") else BY_CV_BRIDGE.get(str(message.encoding))
    bridge = cv_bridge() if size is not None and int(message.step) == size * int(message.width) else None
    if bridge is None:
        return decode_image(message, shrink)
    check_image(message)
    return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"), dtype=np.uint8)


def image_message(pixels: NDArray[Any], encoding: str, header: Header) -> Any:
    """Pixels [H, W] or [H, W, C] of native byte order as a sensor_msgs/Image."""
    if bridge := cv_bridge():
        message = bridge.cv2_to_imgmsg(pixels, encoding)  # older ones do not take a header
        message.header = header
        return message
    message = Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=pixels.itemsize > 1 and sys.byteorder == "big",
        step=pixels[0].nbytes,
    )
    return with_data(message, pixels)


def points_message(points: NDArray[np.float32], header: Header) -> Any:
    """Points [N, 3] in metres as a PointCloud2 of x, y, z (float32)."""
    points = np.ascontiguousarray(points, dtype="<f4")
    if len(points) and (point_cloud2 := sensor_msgs_py()):  # which cannot make a cloud of no points
        message = point_cloud2.create_cloud_xyz32(header, points)
        message.is_dense = True
        return message
    return cloud_message(points, [(name, 4 * place, PointField.FLOAT32, 1) for place, name in enumerate("xyz")], header)


def cloud_message(points: NDArray[Any], fields: Iterable[tuple[str, int, int, int]], header: Header) -> Any:
    """A PointCloud2 of little-endian points [N] or [N, C]; `fields`: name, offset in bytes, datatype, count of each."""
    point_step = points.itemsize * math.prod(points.shape[1:])
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=point_fields(fields),
        is_bigendian=False,
        point_step=point_step,
        row_step=point_step * len(points),
        is_dense=True,
    )
    return with_data(message, points)


def point_fields(fields: Iterable[tuple[str, int, int, int]]) -> list[Any]:
    """The PointFields of names, offsets in bytes, datatypes and counts."""
    return [PointField(name=name, offset=at, datatype=datatype, count=count) for name, at, datatype, count in fields]


def with_data(message: Any, values: NDArray[Any]) -> Any:
    """The message, its empty field ``data`` filled with the bytes of an array, which are copied once.

    Handing ``data`` to the constructor copies it twice (rclpy of Kilted), and assigning NumPy arrays or `bytes` costs
    40 ms and more per MB.
    """
    message.data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
    return message


@cache
def cv_bridge() -> Any:
    """A `CvBridge` that works with the NumPy of this process; None where there is none.

    One that was built for another NumPy fails at the first conversion only, as does the one of the Python index.
    """
    try:
        from cv_bridge import CvBridge

        bridge = CvBridge()
        pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
        message = bridge.cv2_to_imgmsg(pixels, "bgr8")
        return bridge if np.array_equal(bridge.imgmsg_to_cv2(message, "rgb8"), pixels[..., ::-1]) else None
    except Exception:  # whatever a foreign build raises, our own conversion takes its place
        return None


@cache
def sensor_msgs_py() -> Any:
    """The module `sensor_msgs_py.point_cloud2`; None where there is none."""
    try:
        from sensor_msgs_py import point_cloud2
    except ImportError:
        return None
    return point_cloud2
