"""Decoding of `sensor_msgs/Image`, `CompressedImage` and `PointCloud2`: every common encoding, padding and byte order.

Messages are duck-typed: those of rosbags and of rclpy both work. Whatever the encoding, a decoded picture is uint8 RGB
[H, W, 3]; a depth image of the node is float32 [H, W] in metres.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BagError, ImageError
from scene_completion_ros.picture_files import decode_picture, picture_size, to_8_bit, to_rgb


@dataclass(frozen=True)
class Encoding:
    """How the pixels of a raw image lie in memory."""

    channels: int  # numbers per pixel
    conversion: int  # OpenCV's conversion code to RGB; -1 for RGB itself
    dtype: str = "u1"  # NumPy kind and size without byte order


_COLOURS = {
    "mono": (1, cv2.COLOR_GRAY2RGB),
    "rgb": (3, -1),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    # OpenCV's newer Bayer names say the pattern itself, as ROS does (its older ones name it from the second row).
    "bayer_rggb": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg": (1, cv2.COLOR_BayerGRBG2RGB),
}
_PAIRS = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")  # two pixels in a row share their colours
_PLANES = ("nv12", "nv21")
ENCODINGS: dict[str, Encoding] = {
    **{f"{name}{8 * size}": Encoding(*of, f"u{size}") for name, of in _COLOURS.items() for size in (1, 2)},
    "8uc1": Encoding(*_COLOURS["mono"]),
    "8uc3": Encoding(*_COLOURS["bgr"]),  # OpenCV's order, which cv_bridge writes under this name
    "8uc4": Encoding(*_COLOURS["bgra"]),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Encoding(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": Encoding(2, cv2.COLOR_YUV2RGB_YUYV),
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21),
}
DEPTH_ENCODINGS = ("16uc1", "32fc1")


def decode_image(message: Any, shrink: int = 1) -> NDArray[np.uint8]:
    """Decode a raw or compressed image message to RGB; grey is replicated, alpha dropped, 16 bits scaled to 8.

    Returns uint8 RGB [H, W, 3], contiguous, not sharing memory with the message. Raises ImageError: unknown encoding,
    too little data, a step shorter than a row, or a broken JPEG/PNG. `message`: `sensor_msgs/Image` or
    `sensor_msgs/CompressedImage`; `shrink`: a JPEG may come with its sides divided by this (1, 2, 4 or 8), which is
    less work (`decode_picture`). A mosaic always comes whole.
    """
    if hasattr(message, "format"):
        mosaic = bayer_encoding(message)
        picture = decode_picture(_bytes(message), _picture_format(message), 1 if mosaic else shrink)
        if mosaic is None or picture.ndim > 2:
            return to_rgb(picture)
        return to_8_bit(cv2.cvtColor(picture, mosaic.conversion))
    name, encoding = _encoding_of(message)
    pixels = _stored(message, name, encoding)
    if not name.startswith("bayer"):  # a mosaic is interpolated with all its bits
        pixels = to_8_bit(pixels)
    if encoding.conversion < 0:
        return np.array(pixels, dtype=np.uint8, order="C")
    return to_8_bit(cv2.cvtColor(np.ascontiguousarray(pixels), encoding.conversion))


def decode_published_depth(message: Any) -> NDArray[np.float32]:
    """Decode a depth image of the node, 32FC1, float32 [H, W] in metres: +inf is too far, NaN unknown (REP 118)."""
    return np.asarray(_pixels(message, 1, "f4"), dtype=np.float32)


def decode_depth(message: Any) -> NDArray[np.float32]:
    """Depth (16UC1, mm; 32FC1, m) to float32 [H, W], metres; not measured: 0 or not finite (REP 118). ImageError."""
    if str(message.encoding).lower() == "16uc1":
        return np.asarray(_pixels(message, 1, "u2") / np.float32(1000.0), dtype=np.float32)
    if str(message.encoding).lower() != "32fc1":
        cure = f"Name a topic of {' or '.join(map(str.upper, DEPTH_ENCODINGS))}"
        raise ImageError(f"encoding {message.encoding!r} is no depth", where="image", cure=cure)
    return decode_published_depth(message)


def check_image(message: Any) -> None:
    """Raise ImageError as `decode_image` would, cheaply; damage inside compressed data does not show."""
    if hasattr(message, "format"):
        picture_size(_bytes(message), _picture_format(message))
        return
    _stored(message, *_encoding_of(message))


def announced_size(message: Any) -> tuple[int, int]:
    """Width, height in pixels, of a compressed image, from its header. Raises ImageError as `check_image`."""
    if hasattr(message, "format"):
        return picture_size(_bytes(message), _picture_format(message))
    check_image(message)
    if str(message.encoding).lower() in _PLANES:
        planes = _nv_planes(message)
        return planes.shape[1], planes.shape[0] * 2 // 3
    return int(message.width), int(message.height)


def bayer_encoding(message: Any) -> Encoding | None:
    """The encoding of the raw image that was compressed, as in "bayer_rggb8; png compressed", if it was a mosaic."""
    name = str(message.format).partition(";")[0].strip().lower()
    return ENCODINGS.get(name) if name.startswith("bayer") else None


def _encoding_of(message: Any) -> tuple[str, Encoding]:
    name = str(message.encoding)
    encoding = ENCODINGS.get(name.lower())
    if encoding is None:
        if name.lower() in DEPTH_ENCODINGS:
            what = f"encoding {name!r} is depth"
            raise ImageError(what, where="image", cure="Name the topic of a colour or grey image")
        what = f"unknown encoding {name!r}"
        raise ImageError(what, where="image", cure=f"Publish one of {', '.join(sorted(ENCODINGS))}")
    if name.lower() in _PAIRS and int(message.width) % 2:
        what = f"an image of {message.width} pixels in a row, but two of {name} share their colours"
        raise ImageError(what, where="image", cure="Check the driver that published it")
    return name.lower(), encoding


def _stored(message: Any, name: str, encoding: Encoding) -> NDArray[Any]:
    """The numbers of an image as its encoding has them."""
    return _nv_planes(message) if name in _PLANES else _pixels(message, encoding.channels, encoding.dtype)


def _pixels(message: Any, channels: int, dtype: str) -> NDArray[Any]:
    """View of the pixels [H, W] or [H, W, channels] in native byte order; rows start every `step` bytes."""
    data = _bytes(message)
    height, width = int(message.height), int(message.width)
    stored = np.dtype((">" if message.is_bigendian else "<") + dtype)
    row = width * channels * stored.itemsize
    step = int(message.step) or row  # some drivers leave 0
    if height <= 0 or width <= 0:
        what = f"it is empty: {width}x{height} pixels"
        raise ImageError(what, where="image", cure="Check the driver that published it")
    if step < row:
        what = f"step is {step} bytes, but a row of {width} {message.encoding} pixels needs {row}"
        raise ImageError(what, where="image", cure="Check the driver that published it")
    if data.size < step * (height - 1) + row:  # the padding of the last row may be missing
        raise ImageError(
            f"{data.size} bytes of data, but {width}x{height} {message.encoding} with step {step} needs "
            f"{step * (height - 1) + row}",
            where="image",
            cure="The message was cut short or its header is wrong",
        )
    shape, strides = (height, width, channels), (step, channels * stored.itemsize, stored.itemsize)
    view: NDArray[Any] = np.ndarray(shape, stored, buffer=data, strides=strides)
    if channels == 1:
        view = view[..., 0]
    return view.astype(stored.newbyteorder("="), copy=False)


def _nv_planes(message: Any) -> NDArray[np.uint8]:
    """Luma rows followed by interleaved chroma rows [H * 3 / 2, W].

    By convention `height` counts the luma rows; some publishers count the chroma rows as well, which the amount of data
    tells.
    """
    data = _bytes(message)
    height, width, step = int(message.height), int(message.width), int(message.step) or int(message.width)
    if step >= width > 0 and width % 2 == 0:
        for rows in (height * 3 // 2, height):
            if rows > 0 and rows % 3 == 0 and data.size >= step * (rows - 1) + width:
                return np.ndarray((rows, width), np.uint8, buffer=data, strides=(step, 1))
    what = f"{data.size} bytes of data do not fit {width}x{height} {message.encoding} with step {step}"
    raise ImageError(what, where="image", cure="Expected even sizes and height * 3 / 2 rows")


def _picture_format(message: Any) -> str:
    name = str(message.format)
    if "compresseddepth" in name.lower():
        raise ImageError(f"format {name!r} is depth", where="image", cure="Name the topic of a colour or grey image")
    return name


def _bytes(message: Any) -> NDArray[np.uint8]:
    return np.frombuffer(message.data, dtype=np.uint8)


_FLOATS = {7: "f4", 8: "f8"}  # sensor_msgs/PointField datatypes


def read_xyz(message: Any) -> NDArray[np.float32]:
    """The finite points of any PointCloud2, float32 [N, 3], metres, its frame. Raises BagError of `coordinates`."""
    views = coordinates(message)
    points = np.empty((*views[0].shape, 3), dtype=np.float32)
    for column, view in enumerate(views):
        points[..., column] = view
    flat = points.reshape(-1, 3)
    return flat[np.isfinite(flat).all(axis=1)]


def coordinates(message: Any) -> list[NDArray[Any]]:
    """Views of x, y, z, [height, width] each. Raises BagError: not such fields (named), or less data than promised."""
    order = ">" if message.is_bigendian else "<"
    fields = {field.name: field for field in message.fields}
    formats, offsets = [], []
    for axis in ("x", "y", "z"):
        field = fields.get(axis)
        if field is None or int(field.datatype) not in _FLOATS:
            kind = "missing" if field is None else f"of datatype {field.datatype}"
            raise BagError(f"field {axis!r} is {kind}", where="PointCloud2", cure="Expected float fields x, y, z")
        formats.append(order + _FLOATS[int(field.datatype)])
        offsets.append(int(field.offset))
    height, width = int(message.height), int(message.width)
    point_step, row_step = int(message.point_step), int(message.row_step)
    if height <= 1 or row_step == 0:
        row_step = point_step * width
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height * width == 0:
        return [np.zeros((0, 0), dtype=np.float32)] * 3
    if point_step <= 0 or row_step < point_step * width or data.size < row_step * (height - 1) + point_step * width:
        what = f"too little data ({data.size} bytes; {height}x{width} points of {point_step} bytes, rows of {row_step})"
        raise BagError(what, where="PointCloud2, field data", cure="The message was cut short or its header is wrong")
    if any(offset + np.dtype(kind).itemsize > point_step for offset, kind in zip(offsets, formats, strict=True)):
        what = f"offsets {offsets} leave a point of {point_step} bytes"
        raise BagError(what, where="PointCloud2, field fields", cure="Check the driver that published it")
    strides = (row_step, point_step)
    return [
        np.ndarray((height, width), kind, buffer=data, offset=offset, strides=strides)
        for offset, kind in zip(offsets, formats, strict=True)
    ]
