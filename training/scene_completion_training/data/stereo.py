"""Depth of rectified stereo pairs by semi-global matching (Hirschmüller 2008), a label-free depth target.

Cameras ahead that have lenses are looked through by pinholes, as wide as the canonical camera.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, PosedSequence, stereo_pair
from scene_completion_training.arrays import Bytes, Floats, Ints, Mask
from scene_completion_training.extraction.finishing import RectifiedImage

# Seen to each side beyond the canonical camera, which is turned a little against the real one in training.
_MARGIN = math.radians(8.0)
_STEEPEST = math.radians(75.0)  # off the axis; a pinhole stretches what lies further beyond all use


@dataclass(frozen=True, eq=False)
class RectifiedArray:
    """An array [H, W] of a camera with a lens, taken at the nearest pixels of a pinhole; 0 where it does not reach."""

    array: ArrayLoader
    row: Ints
    column: Ints
    covered: Mask

    def __call__(self) -> NDArray[Any]:
        """The array as the pinhole sees it."""
        found = self.array()[self.row, self.column]
        return np.where(self.covered, found, np.zeros_like(found))


def has_lens(camera: Camera) -> bool:
    """Whether straight lines are bent: there is a fisheye, or a distortion that is not zero."""
    model = camera.distortion_model
    return model in ("equidistant", "mei") or (model != "none" and any(camera.distortion))


def rectified_sequence(sequence: PosedSequence, names: Sequence[str], canonical: Camera) -> PosedSequence:
    """The sequence with lenses of cameras that look ahead as pinholes, a little wider than the canonical camera.

    They keep the resolution that the lens has in its middle. Masks, and the depth of the first camera, are taken at the
    nearest pixels. Raises ConfigurationError where the canonical camera is wider than a pinhole can usefully be.
    """
    bent = [name for name in names if has_lens(sequence.cameras[name])]
    if not bent:
        return sequence
    resamplers = {}
    for name in bent:
        camera = sequence.cameras[name]
        resamplers[name] = Resampler(camera, _pinhole(camera, canonical))
    pixels = {name: _nearest(resampler) for name, resampler in resamplers.items()}

    def seen(frame: Frame) -> Frame:
        images = {
            name: RectifiedImage(source, resamplers[name]) if name in resamplers else source
            for name, source in frame.images.items()
        }
        assets = dict(frame.assets)
        for name in bent:
            whole = partial(np.ones, (sequence.cameras[name].height, sequence.cameras[name].width), np.bool_)
            assets[f"validity_{name}"] = RectifiedArray(frame.assets.get(f"validity_{name}", whole), *pixels[name])
            if f"ego_{name}" in assets:
                assets[f"ego_{name}"] = RectifiedArray(assets[f"ego_{name}"], *pixels[name])
        if "depth" in assets and names[0] in bent:
            assets["depth"] = RectifiedArray(assets["depth"], *pixels[names[0]])
        return dataclasses.replace(frame, images=images, assets=assets)

    cameras = {**sequence.cameras, **{name: resampler.target for name, resampler in resamplers.items()}}
    return dataclasses.replace(sequence, cameras=cameras, frames=[seen(frame) for frame in sequence.frames])


def _pinhole(camera: Camera, canonical: Camera) -> Camera:
    focal = min(camera.axial_focal_lengths)
    left, right = ((0.5 + canonical.cx) / canonical.fx, (canonical.width - 0.5 - canonical.cx) / canonical.fx)
    top, bottom = ((0.5 + canonical.cy) / canonical.fy, (canonical.height - 0.5 - canonical.cy) / canonical.fy)
    if max(left, right) > math.tan(_STEEPEST):
        what = f"the canonical camera looks {math.degrees(math.atan(max(left, right))):.0f}° aside"
        cure = f"Take a field of view below {2.0 * math.degrees(_STEEPEST):.0f}°"
        raise ConfigurationError(what, where="camera", cure=cure)
    left, right = (math.tan(min(math.atan(edge) + _MARGIN, _STEEPEST)) for edge in (left, right))
    width, height = math.ceil(focal * (left + right)), math.ceil(focal * (top + bottom))
    return Camera(focal, focal, focal * left - 0.5, focal * top - 0.5, width, height)


def _nearest(resampler: Resampler) -> tuple[Ints, Ints, Mask]:
    """Row and column of the lens's pixel nearest to each of the pinhole's, and whether there is one."""
    source, target = resampler.source, resampler.target
    pixels, covered = source.project(target.unproject(target.pixel_centres()))
    limits = np.array([source.width - 1, source.height - 1])
    nearest = np.clip(np.floor(np.nan_to_num(pixels) + 0.5), 0, limits).astype(np.int64)
    return nearest[..., 1], nearest[..., 0], np.asarray(covered)


DISPARITIES = 160  # searched disparities in pixels: at KITTI's 387 px·m, depths down to 2.4 m
LARGEST_DISAGREEMENT = 1.0  # pixels between the disparities of a pair and of the pair upside down
_REMEMBERED = 32  # frames


@dataclass(frozen=True, eq=False)
class MeasuredDepth:
    """Depth of one frame."""

    depth: Floats  # z-depth [H, W], metres, 0 where none was measured
    deviation: Floats  # its standard deviation [H, W], metres
    camera: Camera  # the camera of the depth image, at the place of the recorded one; it may have fewer pixels


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
    if has_lens(sequence.cameras[left]):
        cure = "Extract the drive with `scene-completion extract`, which rectifies it"
        raise SequenceError(f"images of {left} are those of a lens, not rectified", where=sequence.name, cure=cure)
    grey = [cv2.cvtColor(sequence.image(index, name), cv2.COLOR_RGB2GRAY) for name in (left, right)]
    first, second = (np.asarray(image, dtype=np.uint8) for image in grey)
    return stereo_depth(first, second, sequence.cameras[left].fx, baseline, reference=side)


class StereoPair:
    """Depth of the left camera of a drive's stereo pair, some of it remembered; a `SequenceError` without one."""

    def __init__(self, sequence: PosedSequence) -> None:
        self.camera, _, self._baseline = stereo_pair(sequence)
        self._sequence = sequence
        self._measured = lru_cache(_REMEMBERED)(self._measure)

    def __call__(self, index: int) -> MeasuredDepth:
        """Depth of a frame, in the size of the image."""
        return self._measured(index)

    def _measure(self, index: int) -> MeasuredDepth:
        depth, camera = measured_depth(self._sequence, index), self._sequence.cameras[self.camera]
        return MeasuredDepth(depth, depth_deviation(depth, camera.fx * self._baseline), camera)
