"""Real images for parity, resampled into the canonical camera."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.sequences.source import UNKNOWN_POSES

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}


def canonical_images(sources: Sequence[Path], canonical: Camera, most: int) -> NDArray[np.uint8]:
    """Images of several places, at most so many, spread evenly over each: uint8 [K, H, W, 3] RGB.

    Raises SequenceError where a place holds no image, or is none.

    Args:
        sources: Sequence folders, drives of KITTI, bags, or folders of images. Those of the first three are resampled
            by their calibration; an image without one is cut to the canonical camera's shape and scaled.
        most: How many images to take in all; each place gives its share.
    """
    share = max(1, most // len(sources))
    images = [image for source in sources for image in _of(source, canonical, share)]
    if not images:
        raise SequenceError(
            "holds no image that can be read", where=", ".join(map(str, sources)), cure="Name other recordings"
        )
    return np.stack(images[:most])


def _of(source: Path, canonical: Camera, most: int) -> Iterator[NDArray[np.uint8]]:
    files = sorted(path for path in source.glob("*") if path.suffix.lower() in _SUFFIXES)
    if files:
        for index in spread(len(files), most):
            yield _cut(read_rgb(files[index]), canonical)
        return
    sequence = open_recording(source, poses=UNKNOWN_POSES)  # a bag may have none
    camera = reference_camera(sequence)
    resample = Resampler(sequence.cameras[camera], canonical)
    for index in spread(len(sequence), most):
        yield resample(sequence.image(index, camera))


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many among 0 ... count - 1, spread evenly, the first and the last among them."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most)).round()})


def _cut(image: NDArray[np.uint8], canonical: Camera) -> NDArray[np.uint8]:
    """The middle of an image of the canonical camera's proportions, scaled to its size."""
    height, width = image.shape[:2]
    scale = min(width / canonical.width, height / canonical.height)
    rows, columns = round(canonical.height * scale), round(canonical.width * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    size = (canonical.width, canonical.height)
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
