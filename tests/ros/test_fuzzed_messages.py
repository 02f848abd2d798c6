"""Messages with whatever can be wrong in them: refused with a reason, counted, never the node's end.

Ten thousand go to the functions that read them.
"""

import math
import random
import resource
from array import array
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.geometry.camera_info import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.messages.drop_reasons import read_drop_notice
from scene_completion_ros.messages.images import ENCODINGS, announced_size, check_image, decode_image
from scene_completion_ros.picture_files import LARGEST_MEMORY
from scene_completion_ros.ros import messages, topics
from tests.messages.test_images import of_size
from tests.ros import faulty_node
from tests.ros.camera_to_voxels import CAMERA, ERROR, FRAME, SECOND_NS, some_image

EDGES = (0, 1, 2, 3, 5, 8, 255, 256, 32766, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
REALS = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 5e-324, 1e-300, 1e-5, 1e5, 1e9, 1e150, 1e300, 1.7e308)
ENCODING_NAMES = (*ENCODINGS, "16UC1", "32FC1", "64FC3", "RGB8", "rgb8 ", "", "\0", "holographic8", "☃", "x" * 20_000)
FORMATS = ("", "jpeg", "png", "bmp", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png", "☃\n", "x" * 20_000)
MODELS = ("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "mei", "none", "☃", "x" * 20_000)
STRINGS = {"encoding": ENCODING_NAMES, "format": FORMATS, "distortion_model": MODELS}


class MessageFuzzer:
    """Draws messages of `CAMERA`, the same for the same seed, and changes up to three things about each."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._picture = some_image(seed)
        self._files = _picture_files(self._picture)

    def image(self) -> Any:
        """A sensor_msgs/Image."""
        message = messages.image_message(self._picture, 0, FRAME)
        if self._one_in(4):
            self._take_encoding(message, self._random.choice(list(ENCODINGS)))
        return self._changed(message)

    def compressed_image(self) -> Any:
        """A sensor_msgs/CompressedImage."""
        data = array("B", self._random.choice(self._files))
        return self._changed(CompressedImage(format="rgb8; jpeg compressed bgr8", data=data), "data", "data", "data")

    def camera_info(self) -> Any:
        """A sensor_msgs/CameraInfo."""
        return self._changed(messages.camera_info_message(CAMERA, 0, FRAME), "k", "d")

    def _changed(self, message: Any, *often: str) -> Any:
        """A message with up to three of its fields changed; `often`: fields that are drawn more often than others."""
        kinds = {name: kind for name, kind in message.get_fields_and_field_types().items() if name != "header"}
        count = self._random.choice((0, 1, 1, 1, 2, 3))
        for name in dict.fromkeys(self._random.sample([*kinds, *often], count)):
            self._change(message, name, kinds[name])
        return message

    def _change(self, of: Any, name: str, kind: str) -> None:
        """Change a field, by its type."""
        draw, value = self._random, getattr(of, name)
        if name == "d":
            count = draw.choice((0, 1, 4, 5, 8, 12, 14, 3000))
            of.distortion_model = draw.choice(MODELS)
            of.d = [self._real(0.1) if self._one_in(3) else draw.uniform(-1, 1) for _ in range(count)]
        elif kind == "string":
            setattr(of, name, draw.choice(STRINGS[name]))
        elif kind == "sequence<uint8>":
            claimed = self._whole(CAMERA.width), self._whole(CAMERA.height)
            picture = isinstance(of, CompressedImage) and self._one_in(2)
            data = value.tobytes()
            of.data = array("B", of_size(data, *claimed) if picture else self._spoilt(data))
        elif kind.startswith("double"):
            place = draw.choice([0, 2, 4, 5, draw.randrange(len(value))])
            value[place] = self._real(value[place])
        elif "/" in kind:
            for part in ("x_offset", "y_offset", "width", "height"):
                self._change(value, part, "uint32")
        else:
            setattr(of, name, self._whole(value) % (256 if kind == "uint8" else 2**32))

    def _one_in(self, count: int) -> bool:
        return self._random.randrange(count) == 0

    def _whole(self, value: int) -> int:
        """A number that a field of 32 bits without sign can hold, often near the right one."""
        near = [value + 1, value - 1, value * 2, value // 2, value * 100, self._random.randrange(2**32)]
        return int(np.clip(self._random.choice([*EDGES, *near]), 0, 2**32 - 1))

    def _real(self, value: float) -> float:
        value = float(value)
        return self._random.choice([*REALS, -value, value * 1.01, value * 1e-3, value * 1e3])

    def _take_encoding(self, message: Any, name: str) -> None:
        """Make it an image of another encoding and a small size, of as much data as that needs."""
        encoding = ENCODINGS[name]
        height, width = self._random.choice(((1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (3, 2), (4, 6), (5, 7), (12, 40)))
        row = width * encoding.channels * np.dtype(encoding.dtype).itemsize
        message.encoding, message.height, message.width, message.step = name, height, width, row
        message.data = array("B", self._random.randbytes(row * height * (3 if name.startswith("nv") else 2) // 2))

    def _spoilt(self, data: bytes) -> bytes:
        size, some = len(data), self._random.randrange
        if not size:
            return self._random.randbytes(some(50))
        start, end = sorted((some(size + 1), some(size + 1)))
        spoilt = bytearray(data)
        for _ in range(some(1, 20)):  # most often where formats keep what says how to read the rest
            spoilt[some(min(size, self._random.choice((30, 200, size))))] = some(256)
        return self._random.choice(
            (data[:start], data[start:], data[:start] + data[end:], data[:end] + data[start:], bytes(spoilt), data[:-1])
        )


def _picture_files(picture: NDArray[np.uint8]) -> list[bytes]:
    """Files of a picture [H, W, 3] in all forms that can be decoded."""
    grey = picture[..., 0]
    alpha = np.concatenate([picture, grey[..., None]], axis=-1)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    made = [cv2.imencode(".jpg", content)[1] for content in (picture, grey)]
    made.append(cv2.imencode(".jpg", picture, progressive)[1])
    made += [cv2.imencode(".png", content)[1] for content in (picture, grey, alpha, grey.astype(np.uint16) * 257)]
    return [file.tobytes() for file in made]


SEEN = Camera(92.8, 92.8, 79.5, 22.125, 160, 48)  # what cameras are resampled to
LARGEST_GROWTH_KB = LARGEST_MEMORY // 1000 + 100_000


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(("kind", "count"), [("image", 4000), ("compressed_image", 3000)])
def test_images_are_decoded_or_refused_with_a_reason(kind: str, count: int) -> None:
    fuzzer = MessageFuzzer(1)
    outcome: Counter[str] = Counter()
    errors: list[ImageError] = []
    before_kb = peak_kb()
    for number in range(count):
        message, shrink = getattr(fuzzer, kind)(), 2 ** (number % 4)
        try:
            width, height = announced_size(message)
            check_image(message)
        except ImageError as error:
            outcome["refused at once"] += 1
            errors.append(error)
            with pytest.raises(ImageError):
                decode_image(message, shrink)
            continue
        try:
            pixels = decode_image(message, shrink)
        except ImageError as error:
            outcome["refused"] += 1
            errors.append(error)
            continue
        outcome["decoded"] += 1
        shrunk = (height // shrink, width // shrink, 3)
        outcome["shrunk"] += pixels.shape == shrunk != (height, width, 3)
        assert pixels.shape in (shrunk, (height, width, 3))
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
    assert all(error.what and error.cure for error in errors)
    assert min(outcome["decoded"], outcome["refused at once"]) > count / 10, outcome
    assert ("refused" in outcome) == (kind == "compressed_image")  # of raw images, the header tells all
    assert (outcome["shrunk"] > 100) == (kind == "compressed_image")
    assert peak_kb() - before_kb < LARGEST_GROWTH_KB


@pytest.mark.filterwarnings("error")
def test_calibrations_are_usable_or_refused_with_a_reason() -> None:
    fuzzer = MessageFuzzer(2)
    outcome: Counter[str] = Counter()
    errors: list[CameraError] = []
    for _ in range(3000):
        message = fuzzer.camera_info()
        for rectified in (False, True):
            try:
                camera = camera_from_camera_info(message, rectified=rectified, where="/camera_info")
                resampler = Resampler(camera, SEEN)
                image = np.full((min(camera.height, 64), min(camera.width, 64), 3), 9, np.uint8)
                if camera == CAMERA or image.shape[:2] == (camera.height, camera.width):
                    resampler(np.full((camera.height, camera.width, 3), 9, np.uint8))
            except CameraError as error:
                outcome["refused"] += 1
                errors.append(error)
            else:
                outcome["usable"] += 1
                assert resampler.validity.shape == (SEEN.height, SEEN.width)
    assert all(error.what and error.where for error in errors)
    assert min(outcome["refused"], outcome["usable"]) > 300, outcome


def test_an_unexpected_error_is_counted_and_the_node_goes_on(start: Any) -> None:
    running = start(script=faulty_node.__file__)
    running.start()
    notices = running.graph.collect(String, topics.DROPPED.replace("~", running.output), 100)
    faulty = running.make_image(some_image(1), 10 * SECOND_NS, faulty_node.FAULTY)

    def send() -> None:
        running.images.publish(faulty)
        running.camera_infos.publish(faulty_info())

    assert running.graph.repeat(send, lambda: bool(notices)), running.node.log
    assert read_drop_notice(notices[0].data) == (10 * SECOND_NS, faulty_node.FAULTY, "internal error")
    status = running.diagnosed.until("inference", ERROR, "internal error", "report internal errors", meanwhile=send)
    assert status.message
    assert "ZeroDivisionError: unforeseen; please report this" in running.node.log
    running.until_logged("in arrived", lambda: running.camera_infos.publish(faulty_info()))  # where it was
    running.answer(running.make_image(some_image(1), 20 * SECOND_NS, FRAME))
    endless = running.make_image(some_image(1), faulty_node.ENDLESS_NS, FRAME)
    expected = (faulty_node.ENDLESS_NS, FRAME, "result is not finite")

    def dropped() -> bool:
        return expected in (read_drop_notice(notice.data) for notice in notices)

    assert running.graph.repeat(lambda: running.images.publish(endless), dropped), running.node.log
    assert running.node.end() == 0


def faulty_info() -> Any:
    return messages.camera_info_message(CAMERA, 0, faulty_node.FAULTY)
