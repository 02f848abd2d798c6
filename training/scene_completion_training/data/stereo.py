"""Depth of rectified pairs, a label-free target, by semi-global matching (Hirschmüller 2008)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import cv2
import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.posed_sequence import PosedSequence, stereo_pair
from scene_completion_training.arrays import Bytes, Floats


def refuse_lens(sequence: PosedSequence, name: str) -> None:
    """Raises a `SequenceError` where a camera bends straight lines: a fisheye, or a distortion that is not zero."""
    camera = sequence.cameras[name]
    if camera.distortion_model in ("equidistant", "mei") or any(camera.distortion):
        cure = "Extract the drive with `scene-completion extract`, which rectifies it"
        raise SequenceError(f"images of {name} are those of a lens, not rectified", where=sequence.name, cure=cure)


DISPARITIES = 160  # searched disparities in pixels: at KITTI's 387 px·m, depths down to 2.4 m
LARGEST_DISAGREEMENT = 1.0  # pixels between the disparities of a pair and of the pair upside down


@dataclass(frozen=True, eq=False)
class MeasuredDepth:
    """Depth of one frame."""

    depth: Floats  # z-depth [H, W], metres, 0 where none was measured
    deviation: Floats  # its standard deviation [H, W], metres


Meter: TypeAlias = Callable[[int], MeasuredDepth]  # of frames by number


def _disparity(left: Bytes, right: Bytes) -> Floats:
    """Disparity of the left image [H, W], pixels, at most 0 where there is none: the mean of two matchings.

    The matcher sums costs along three paths, of which one is vertical. On a road, where disparity grows from row to
    row, it lags behind by about 0.2 pixels; upside down it lags to the other side. Where both differ by a pixel, one is
    wrong.
    """
    upright = _matched(left, right)
    turned = _matched(np.ascontiguousarray(left[::-1]), np.ascontiguousarray(right[::-1]))[::-1]
    agree = (upright > 0.0) & (turned > 0.0) & (np.abs(upright - turned) <= LARGEST_DISAGREEMENT)
    return np.where(agree, 0.5 * (upright + turned), np.float32(-1.0))


def _matched(left: Bytes, right: Bytes) -> Floats:
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=DISPARITIES,
        blockSize=5,
        P1=8 * 25,
        P2=32 * 25,
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # Without padding the matcher leaves the first DISPARITIES columns empty.
    padded = [cv2.copyMakeBorder(image, 0, 0, DISPARITIES, 0, cv2.BORDER_REPLICATE) for image in (left, right)]
    return np.asarray(matcher.compute(*padded)[:, DISPARITIES:], np.float32) / np.float32(16.0)


def stereo_depth(left: Bytes, right: Bytes, focal: float, baseline: float, *, reference: str = "left") -> Floats:
    """z-depth [H, W], metres, 0 where it failed, of rectified grey images; focal length in pixels, baseline metres."""
    if reference == "left":
        disparity = _disparity(left, right)
    else:
        disparity = _disparity(np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1]))[:, ::-1]
    depth = np.zeros_like(disparity)
    valid = disparity > 0.5
    depth[valid] = focal * baseline / disparity[valid]
    return depth


def depth_deviation(depth: Floats, focal_baseline: float) -> Floats:
    """Standard deviation of stereo depth, z² / (f·b) · σ_d, in metres, for a disparity error of 0.3 pixels."""
    return (depth * depth * np.float32(0.3 / focal_baseline)).astype(np.float32)


def measured_depth(sequence: PosedSequence, index: int, side: Literal["left", "right"] = "left") -> Floats:
    """Depth of a side of the pair by semi-global matching; a `SequenceError` for lenses: rows do not match."""
    left, right, baseline = stereo_pair(sequence)
    refuse_lens(sequence, left)
    grey = [cv2.cvtColor(sequence.image(index, name), cv2.COLOR_RGB2GRAY) for name in (left, right)]
    first, second = (np.asarray(image, dtype=np.uint8) for image in grey)
    return stereo_depth(first, second, sequence.cameras[left].fx, baseline, reference=side)


@lru_cache(32)
def measured_pair(sequence: PosedSequence, index: int) -> MeasuredDepth:
    """Depth of the left camera of a drive's stereo pair; some frames are remembered."""
    left, _, baseline = stereo_pair(sequence)
    depth = measured_depth(sequence, index)
    return MeasuredDepth(depth, depth_deviation(depth, sequence.cameras[left].fx * baseline))
