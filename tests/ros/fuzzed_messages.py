"""Messages of a camera with whatever can be wrong in them, drawn from a seed; some are still good."""

import math
import random
import struct
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.images import ENCODINGS
from scene_completion_ros.ros import messages

EDGES = (0, 1, 2, 3, 5, 8, 255, 256, 32766, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
REALS = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 5e-324, 1e-300, 1e-5, 1e5, 1e9, 1e150, 1e300, 1.7e308)
ENCODING_NAMES = (*ENCODINGS, "16UC1", "32FC1", "64FC3", "RGB8", "rgb8 ", "", "\0", "holographic8", "☃", "x" * 20_000)
FORMATS = ("", "jpeg", "png", "bmp", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png", "☃\n", "x" * 20_000)
FRAME_IDS = ("", "/", "/front", "front optical", "a\nb", "\x1b[2J", "☃", "x" * 20_000)
MODELS = ("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "mei", "none", "☃", "x" * 20_000)
STAMPS = ((0, 0), (-1, 0), (-(2**31), 0), (2**31 - 1, 999_999_999), (2**31 - 1, 2**32 - 1), (5, 10**9), (-1, 2**32 - 1))
BOMB_SIDE = 32_000  # a picture of a gigapixel, in a message of some hundred kilobytes


class MessageFuzzer:
    """Draws messages of a camera and changes up to three things about each.

    Stamps are a millisecond apart and frames are numbered; of the two no more than one is changed, so that together
    they tell which message it was.

    Args:
        seed: The same seed draws the same messages.
        camera: The camera whose messages they are before anything is changed.
    """

    def __init__(self, seed: int, camera: Camera) -> None:
        self._random = random.Random(seed)
        self._camera = camera
        rough = np.random.default_rng(seed).integers(0, 255, (6, 20, 3), dtype=np.uint8)
        self._picture = np.asarray(cv2.resize(rough, (camera.width, camera.height)), np.uint8)
        self._files = _picture_files(self._picture)
        self._bomb = _png_bomb(BOMB_SIDE)
        self._drawn = 0

    def image(self) -> Any:
        """A sensor_msgs/Image."""
        message = messages.image_message(self._picture, *self._next())
        if self._one_in(4):
            self._take_encoding(message, self._random.choice(list(ENCODINGS)))
        return self._changed(message, [self._of_header(message), *self._of_image(message)])

    def compressed_image(self) -> Any:
        """A sensor_msgs/CompressedImage."""
        stamp_ns, frame_id = self._next()
        message = CompressedImage(
            format="rgb8; jpeg compressed bgr8", data=array("B", self._random.choice(self._files))
        )
        message.header.stamp, message.header.frame_id = messages.stamp_message(stamp_ns), frame_id
        return self._changed(message, [self._of_header(message), *self._of_file(message)])

    def camera_info(self) -> Any:
        """A sensor_msgs/CameraInfo."""
        message = messages.camera_info_message(self._camera, *self._next())
        return self._changed(message, [self._of_header(message), *self._of_camera_info(message)])

    def _next(self) -> tuple[int, str]:
        """Stamp in nanoseconds and frame of the next message."""
        self._drawn += 1
        return 1_000_000_000_000 + self._drawn * 1_000_000, f"fuzzed_{self._drawn}"

    def _changed(self, message: Any, changes: Sequence[Callable[[], None]]) -> Any:
        for change in self._random.sample(list(changes), self._random.choice((0, 1, 1, 1, 2, 3))):
            change()
        return message

    def _one_in(self, count: int) -> bool:
        return self._random.randrange(count) == 0

    def _whole(self, value: int) -> int:
        """A number that a field of 32 bits without sign can hold, often near the right one."""
        near = [value + 1, value - 1, value * 2, value // 2, value * 100, self._random.randrange(2**32)]
        return int(np.clip(self._random.choice([*EDGES, *near]), 0, 2**32 - 1))

    def _real(self, value: float) -> float:
        value = float(value)
        return self._random.choice([*REALS, -value, value * 1.01, value * 1e-3, value * 1e3])

    def _of_header(self, message: Any) -> Callable[[], None]:
        def change() -> None:
            if self._one_in(2):
                message.header.frame_id = self._random.choice(FRAME_IDS)
            elif self._one_in(2):
                earlier_ns = messages.stamp_nanoseconds(message.header.stamp) - 500_000_000
                message.header.stamp = messages.stamp_message(earlier_ns)
            else:
                message.header.stamp.sec, message.header.stamp.nanosec = self._random.choice(STAMPS)

        return change

    def _of_image(self, message: Any) -> list[Callable[[], None]]:
        def number(name: str) -> Callable[[], None]:
            return lambda: setattr(message, name, self._whole(getattr(message, name)))

        def encoding() -> None:
            message.encoding = self._random.choice(ENCODING_NAMES)

        def endian() -> None:
            message.is_bigendian = self._random.choice((1, 255))

        def data() -> None:
            size = len(message.data)
            length = self._random.choice((0, 1, size - 1, size // 2, size + 1, self._random.randrange(size + 1)))
            message.data = (message.data + array("B", [7]))[:length]

        return [number("height"), number("width"), number("step"), encoding, endian, data]

    def _take_encoding(self, message: Any, name: str) -> None:
        """Make it an image of another encoding and a small size, of as much data as that needs."""
        encoding = ENCODINGS[name]
        height, width = self._random.choice(((1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (3, 2), (4, 6), (5, 7), (12, 40)))
        row = width * encoding.channels * np.dtype(encoding.dtype).itemsize
        message.encoding, message.height, message.width, message.step = name, height, width, row
        message.data = array("B", self._random.randbytes(row * height * (3 if encoding.layout == "nv" else 2) // 2))

    def _of_file(self, message: Any) -> list[Callable[[], None]]:
        def form() -> None:
            message.format = self._random.choice(FORMATS)

        def data() -> None:
            message.data = array("B", self._spoilt(message.data.tobytes()))

        def size() -> None:
            width, height = self._whole(self._camera.width), self._whole(self._camera.height)
            message.data = array("B", _of_claimed_size(message.data.tobytes(), width, height))

        def bomb() -> None:
            message.data = array("B", self._bomb)

        return [form, data, data, data, size, size] + [bomb] * self._one_in(8)

    def _spoilt(self, data: bytes) -> bytes:
        size, some = len(data), self._random.randrange
        if not size:
            return self._random.randbytes(some(50))
        start, end = sorted((some(size + 1), some(size + 1)))
        spoilt = bytearray(data)
        for _ in range(some(1, 20)):  # most often where formats keep what says how to read the rest
            spoilt[some(min(size, self._random.choice((30, 200, size))))] = some(256)
        return self._random.choice(
            (data[:start], data[start:], data[:start] + data[end:], data[:end] + data[start:], bytes(spoilt))
        )

    def _of_camera_info(self, message: Any) -> list[Callable[[], None]]:
        def number(part: Any, name: str) -> Callable[[], None]:
            return lambda: setattr(part, name, self._whole(getattr(part, name)))

        def entry(name: str) -> Callable[[], None]:
            def change() -> None:
                values = getattr(message, name)
                place = self._random.choice([0, 2, 4, 5, self._random.randrange(len(values))])
                values[place] = self._real(values[place])

            return change

        def lens() -> None:
            model, count = self._random.choice(MODELS), self._random.choice((0, 1, 4, 5, 8, 12, 14, 3000))
            message.distortion_model = model
            message.d = [self._real(0.1) if self._one_in(3) else self._random.uniform(-1, 1) for _ in range(count)]

        def region() -> None:
            for name, size in (("width", message.width), ("height", message.height)):
                setattr(message.roi, name, self._whole(size))
            message.roi.x_offset, message.roi.y_offset = self._whole(0), self._whole(0)

        sizes = [number(message, name) for name in ("width", "height", "binning_x", "binning_y")]
        return [*sizes, entry("k"), entry("k"), entry("p"), entry("r"), lens, lens, region]


def _picture_files(picture: NDArray[np.uint8]) -> list[bytes]:
    """Files of a picture [H, W, 3] in all forms that can be decoded."""
    grey = picture[..., 0]
    alpha = np.concatenate([picture, grey[..., None]], axis=-1)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    made = [cv2.imencode(".jpg", content)[1] for content in (picture, grey)]
    made.append(cv2.imencode(".jpg", picture, progressive)[1])
    made += [cv2.imencode(".png", content)[1] for content in (picture, grey, alpha, grey.astype(np.uint16) * 257)]
    return [file.tobytes() for file in made]


def _of_claimed_size(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header, as whoever reads it believes it."""
    if data.startswith(b"\x89PNG") and len(data) > 33:
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    start = next((place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := data.find(mark)) >= 0), -1)
    if start < 0 or len(data) < start + 9:
        return data
    return data[: start + 5] + struct.pack(">HH", height % 65536, width % 65536) + data[start + 9 :]


def _png_bomb(side: int) -> bytes:
    """A black square, one bit a pixel, whose pixels take a thousand times the memory of the file and more."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
