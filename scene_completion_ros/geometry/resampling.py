"""Resampling of images between cameras, undistortion included."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Reals
from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.geometry.cameras import Camera

# Images are averaged down before sampling when the target resolves less than this part of the source.
_SHRINK_FROM = 0.9

_LARGEST_SIDE = 32766  # OpenCV's maps count pixels in 16 bits

_SHRINKS = (8, 4, 2)  # by what a JPEG decoder can divide the sides of an image for less work than decoding all of it

# The target's resolution over that of a shrunk image, at most. A decoder keeps sharper edges than the mean that the
# network was trained with. Averaging its result once more by about two takes them away.
_LARGEST_AFTER_SHRINK = 0.55

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


class Resampler:
    """Turns images of one camera into those of another one at the same place, usually the canonical pinhole camera.

    The maps are computed once. Bilinear sampling alone would skip source pixels when shrinking; the image is therefore
    first averaged down to about the target's focal length. Raises CameraError where the source has more pixels in a row
    or a column than can be mapped. `source_from_target_rotation`: rotation [3, 3] between the optical frames, identity
    if left out.
    """

    def __init__(self, source: Camera, target: Camera, *, source_from_target_rotation: Reals | None = None) -> None:
        self.source, self.target = source, target
        self.shrink = decoder_shrink(source, target)  # images may also come averaged down by this already
        self._shrunk = source.height // self.shrink, source.width // self.shrink
        self._reduced = _reduced(source, target)
        if max(self._reduced.width, self._reduced.height) > _LARGEST_SIDE:
            what = f"{self._reduced.width}x{self._reduced.height} pixels cannot be resampled"
            cure = "Check the calibrated image size and the focal length"
            raise CameraError(f"{what}: a side may have {_LARGEST_SIDE} at most", where="width, height", cure=cure)
        rays = target.unproject(target.pixel_centres())  # [H_t, W_t, 3]
        if source_from_target_rotation is not None:
            rays = rays @ np.asarray(source_from_target_rotation, dtype=np.float64).T
        pixels, self.validity = self._reduced.project(rays)  # bool [H_t, W_t], where the source covers the pixel
        limits = (self._reduced.width - 1.0, self._reduced.height - 1.0)
        places = np.clip(np.nan_to_num(pixels), 0.0, limits).astype(np.float32)
        # Fixed point of 1/32 pixel: what remap works with inside for uint8; converting once saves it at every image.
        self._map, self._fractions = cv2.convertMaps(places, np.empty(0), cv2.CV_16SC2)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Resample an image.

        Returns [H_t, W_t] or [H_t, W_t, C] of the same dtype; outside `validity` the source's border is repeated.
        Raises ImageError where the image has another size than the source camera was calibrated for.
        `image`: [H, W] or [H, W, C] of the source camera, or [H / shrink, W / shrink, ...]; uint8, uint16 or float32.
        """
        self._check(image)
        reduced = self._reduced
        if image.shape[:2] != (reduced.height, reduced.width):
            image = cv2.resize(image, (reduced.width, reduced.height), interpolation=cv2.INTER_AREA)
        resampled: NDArray[Any] = np.asarray(
            cv2.remap(image, self._map, self._fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        return resampled

    def _check(self, image: NDArray[Any]) -> None:
        assert image.ndim in (2, 3) and image.dtype in _DTYPES
        if image.shape[:2] not in ((self.source.height, self.source.width), self._shrunk):
            size, calibrated = f"{image.shape[1]}x{image.shape[0]}", f"{self.source.width}x{self.source.height}"
            what = f"the image is {size} pixels, but the camera is calibrated for {calibrated}"
            cure = "Use the calibration of this image size, or publish the image unscaled and uncropped"
            raise ImageError(what, where="width, height", cure=cure)


def decoder_shrink(source: Camera, target: Camera) -> int:
    """8, 4, 2 or 1, a divisor of both sides: detail enough for the target is left after decoding an image by it."""
    finest = max(_resolution(source, target))
    for shrink in _SHRINKS:
        if source.width % shrink == 0 and source.height % shrink == 0 and shrink * finest <= _LARGEST_AFTER_SHRINK:
            return shrink
    return 1


def _reduced(source: Camera, target: Camera) -> Camera:
    """Return the source camera scaled down, an axis at a time, to the resolution that the target can show."""
    ratios = zip((source.width, source.height), _resolution(source, target), strict=True)
    return source.resized(*(max(1, round(size * ratio)) if ratio < _SHRINK_FROM else size for size, ratio in ratios))


def _resolution(source: Camera, target: Camera) -> tuple[float, float]:
    """The target's pixels per radian at the axis over those of the source, along x and along y."""
    (target_x, target_y), (source_x, source_y) = target.axial_focal_lengths, source.axial_focal_lengths
    return target_x / source_x, target_y / source_y
