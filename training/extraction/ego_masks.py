"""Pixels in which a camera sees its own vehicle: given as an image, or found by their not changing on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import read_image_file
from scene_completion_training.extraction.rectification import View

_SAMPLES = 60
_STILL = 0.35  # of the usual change in time: bonnets reflect, and JPEG is never still
_LARGEST_CHANGE = 10.0  # grey levels
_SMALLEST_PART = 0.002  # of the image


def read_ego_mask(path: Path, camera: Camera, view: View) -> NDArray[np.bool_]:
    """Read an ego mask drawn on a recorded image.

    Args:
        path: Image file of the recorded size, white where the camera sees its own vehicle.
        camera: Recorded camera.
        view: Camera of the sequence.

    Returns:
        Mask of the view, bool [H, W], True on the own vehicle.

    Raises:
        ImageError: The file is no image or has another size.
    """
    mask = (read_image_file(path).max(axis=-1) > 127).astype(np.float32)
    if mask.shape != (camera.height, camera.width):
        raise ImageError(
            f"mask is {mask.shape[1]}x{mask.shape[0]}, images are {camera.width}x{camera.height}",
            where=str(path),
            cure="Draw it on a recorded image of this camera",
        )
    return (mask if view.resampler is None else view.resampler(mask)) > 0.5


def estimate_ego_mask(images: Sequence[NDArray[np.uint8]], validity: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Find the pixels that do not change while the rig moves and that hang together with the lower image border.

    Sky does not change either, but reaches the upper border. A road without any texture can be taken for a bonnet:
    look at the mask.

    Args:
        images: Grey images [H, W] of one camera, spread over a drive of some ten metres or more.
        validity: Where the images show anything, bool [H, W].

    Returns:
        Mask bool [H, W], True on the own vehicle.
    """
    chosen = np.linspace(0, len(images) - 1, min(_SAMPLES, len(images))).round().astype(int)
    stack = np.stack([cv2.GaussianBlur(images[index], (0, 0), 1.5) for index in chosen]).astype(np.float32)
    # The median of the changes is robust to a shadow or reflection that passes; the mean brightness is taken out.
    stack -= np.median(stack, axis=(1, 2), keepdims=True) - np.median(stack)
    change = np.median(np.abs(stack - np.median(stack, axis=0)), axis=0)
    seen = np.ones_like(change, dtype=bool) if validity is None else validity
    still = (change < min(_LARGEST_CHANGE, _STILL * float(np.median(change[seen])))) & seen
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    closed = cv2.morphologyEx(still.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    closed = cv2.morphologyEx(closed, cv2.MORPH_CLOSE, kernel)
    return _standing_on_the_lower_border(np.asarray(closed, dtype=np.uint8))


def _standing_on_the_lower_border(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask)
    kept = np.zeros(mask.shape, dtype=bool)
    for label in range(1, count):
        top, height, area = (statistics[label, key] for key in (cv2.CC_STAT_TOP, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
        if top > 0 and top + height >= mask.shape[0] - 4 and area >= _SMALLEST_PART * mask.size:
            kept |= labels == label
    return kept
