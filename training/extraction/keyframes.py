"""Which frames are kept: those that show the world from somewhere else than the last one kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform

_CORNERS = 300
_SHIFT = 0.008  # of the image's width: the median shift that makes a keyframe
_SMALLEST_SHARE = 0.4  # of the corners that must still be tracked, or the view has changed altogether


def select_by_motion(poses: Sequence[RigidTransform], metres: float, degrees: float) -> list[int]:
    """Indices of frames that lie `metres` or are turned by `degrees` from the last one kept; the first is kept.

    Args:
        poses: world_from_rig of every frame.
        metres: Distance, in the units of the poses.
        degrees: Angle.
    """
    kept: list[int] = []
    for index, pose in enumerate(poses):
        if not kept:
            kept.append(index)
            continue
        step = poses[kept[-1]].inverse() @ pose
        angle = math.degrees(math.acos(float(np.clip((np.trace(step.rotation) - 1.0) / 2.0, -1.0, 1.0))))
        if np.linalg.norm(step.translation) >= metres or angle >= degrees:
            kept.append(index)
    return kept


def select_by_image_motion(images: Iterable[NDArray[np.uint8]]) -> list[int]:
    """Indices of frames in which corners have moved since the last one kept; frames of a standing rig are left out.

    The corners of the last keyframe are followed from image to image (Lucas and Kanade 1981). What moves in front of a
    standing camera is in the minority, so that the median decides.

    Args:
        images: Grey images [H, W] of one camera, in order of time.
    """
    kept: list[int] = []
    previous = np.zeros((0, 0), np.uint8)
    corners = starts = np.zeros((0, 1, 2), np.float32)
    count = 0
    for index, image in enumerate(images):
        if kept and len(corners):
            corners, starts = _followed(previous, image, corners, starts)
        shift = float(np.median(np.linalg.norm(corners - starts, axis=-1))) if len(corners) else 0.0
        if not kept or shift > _SHIFT * image.shape[1] or len(corners) < _SMALLEST_SHARE * count or not count:
            kept.append(index)
            found = cv2.goodFeaturesToTrack(image, _CORNERS, 0.01, image.shape[1] / 60)
            corners = starts = np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found)
            count = len(corners)
        previous = image
    return kept


def _followed(
    previous: NDArray[np.uint8], image: NDArray[np.uint8], corners: NDArray[np.float32], starts: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions in the next image and in the keyframe of the corners that could be followed."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(previous, image, corners, corners.copy(), winSize=(15, 15), maxLevel=4)
    alive = found.reshape(-1).astype(bool)
    return np.asarray(moved, np.float32)[alive], starts[alive]
