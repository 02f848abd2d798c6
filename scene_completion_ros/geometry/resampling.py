"""Resampling of images between cameras, undistortion included."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry.cameras import Camera

_SHRINK_FROM = 0.9
"""Images are averaged down before sampling when the target resolves less than this part of the source."""

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


class Resampler:
    """Turns images of one camera into those of another one at the same place, usually the canonical pinhole camera.

    The maps are computed once. Bilinear sampling alone would skip source pixels when shrinking; the image is therefore
    first averaged down to about the target's focal length.

    Args:
        source: Camera that takes the images, distortion included.
        target: Camera whose images are wanted.
        source_from_target_rotation: Rotation [3, 3] between the optical frames, identity if left out.

    Attributes:
        source: As given.
        target: As given.
        validity: Where the source covers the target's pixel, bool [H_t, W_t].
    """

    def __init__(
        self, source: Camera, target: Camera, *, source_from_target_rotation: NDArray[np.floating[Any]] | None = None
    ) -> None:
        self.source = source
        self.target = target
        self._reduced = _reduced(source, target)
        rays = target.unproject(target.pixel_centres())  # [H_t, W_t, 3]
        if source_from_target_rotation is not None:
            rays = rays @ np.asarray(source_from_target_rotation, dtype=np.float64).T
        pixels, self.validity = self._reduced.project(rays)
        limits = (self._reduced.width - 1.0, self._reduced.height - 1.0)
        columns, rows = (
            np.clip(np.nan_to_num(pixels[..., axis]), 0.0, limits[axis]).astype(np.float32) for axis in (0, 1)
        )
        # Fixed point of 1/32 pixel: what remap works with inside for uint8; converting once saves it at every image.
        self._map, self._fractions = cv2.convertMaps(columns, rows, cv2.CV_16SC2)

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Resample an image.

        Args:
            image: [H, W] or [H, W, C] of the source camera; uint8, uint16 or float32.

        Returns:
            [H_t, W_t] or [H_t, W_t, C] of the same dtype; outside `validity` the source's border is repeated.

        Raises:
            ImageError: The image has another size than the source camera was calibrated for, or another dtype.
        """
        self._check(image)
        reduced = self._reduced
        if (reduced.width, reduced.height) != (self.source.width, self.source.height):
            image = cv2.resize(image, (reduced.width, reduced.height), interpolation=cv2.INTER_AREA)
        resampled: NDArray[Any] = np.asarray(
            cv2.remap(image, self._map, self._fractions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        return resampled

    def _check(self, image: NDArray[Any]) -> None:
        if image.ndim not in (2, 3) or image.dtype not in _DTYPES:
            raise ImageError(
                f"cannot resample an image of shape {list(image.shape)} and type {image.dtype}",
                cure="Decode it to [H, W] or [H, W, 3] of uint8 first",
            )
        if image.shape[:2] != (self.source.height, self.source.width):
            raise ImageError(
                f"the image is {image.shape[1]}x{image.shape[0]} pixels, but the camera is calibrated for "
                f"{self.source.width}x{self.source.height}",
                where="width, height",
                cure="Use the calibration of this image size, or publish the image unscaled and uncropped",
            )


def _reduced(source: Camera, target: Camera) -> Camera:
    """Return the source camera scaled down, an axis at a time, to the resolution that the target can show."""
    sizes = []
    for size, ratio in ((source.width, target.fx / source.fx), (source.height, target.fy / source.fy)):
        sizes.append(max(1, round(size * ratio)) if ratio < _SHRINK_FROM else size)
    return source.resized(*sizes)
