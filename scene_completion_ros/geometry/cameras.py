"""The camera model: intrinsics in pixels, image size and lens distortion.

This is the one place of the conventions. The optical frame has x right, y down, z forward. Pixel (0, 0) is the centre
of the top-left pixel, so that an image covers [-0.5, width - 0.5) horizontally. Normalised coordinates run from -1 to 1
between the pixel edges (`align_corners=False`).
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.arrays import Array, floating
from scene_completion_ros.geometry.distortion import (
    COEFFICIENT_COUNTS,
    DistortionModel,
    axial_magnification,
    distort,
    mei_angle,
    undistort,
    undistorted_angle,
)

FOCAL_LENGTHS = 1e-6, 1e9  # pixels: whatever lies outside is no lens, and overflows in what is computed from it
LARGEST_COEFFICIENT = 1e12  # of a distortion, for the same reason
LARGEST_MOVE = 0.3  # pixels by which calibrations of one camera may differ, as those of an autofocus do all the time
_SMALLEST_DEPTH = 1e-6  # metres; nearer points count as behind, so that no division overflows

_CALIBRATE = "Calibrate the camera (for example with camera_calibration) or give a calibration file"


@dataclass(frozen=True)
class Camera:
    """A calibrated camera; sizes and places in its image are in pixels.

    Raises CameraError: zero or non-finite intrinsics, an empty image, an unknown model, a wrong number of coefficients.
    """

    fx: float  # focal length along x, pixels
    fy: float  # focal length along y, pixels
    cx: float  # principal point, pixels; 0 is the centre of the leftmost pixel
    cy: float  # 0 is the centre of the topmost pixel
    width: int
    height: int
    distortion_model: DistortionModel = "none"  # fx and fy of "mei" are its gammas
    # Coefficients in the order of ROS, for mei xi k1 k2 p1 p2; plumb_bob may leave out k3, which then is 0.
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("width", "height"):
            object.__setattr__(self, name, _whole_number(name, getattr(self, name)))
        object.__setattr__(self, "distortion", tuple(float(value) for value in self.distortion))
        self._check_intrinsics()
        self._check_distortion()

    def _check_intrinsics(self) -> None:
        smallest, largest = FOCAL_LENGTHS
        for name, focal in (("fx", self.fx), ("fy", self.fy)):
            if not smallest <= focal <= largest:
                what = f"focal length {name} = {focal} lies outside of {smallest:g} to {largest:g} pixels"
                raise CameraError(what, where="K", cure=_CALIBRATE)
        if not (math.isfinite(self.cx) and math.isfinite(self.cy)):
            raise CameraError(f"principal point {self.cx}, {self.cy} is not finite", where="K", cure=_CALIBRATE)
        if self.width <= 0 or self.height <= 0:
            cure = "Set the size of the image that the camera was calibrated with"
            raise CameraError(f"image size {self.width}x{self.height} is empty", where="width, height", cure=cure)

    def _check_distortion(self) -> None:
        if self.distortion_model not in COEFFICIENT_COUNTS:
            what = f"unknown distortion model {self.distortion_model!r}"
            raise CameraError(what, where="distortion_model", cure=f"Use one of {', '.join(COEFFICIENT_COUNTS)}")
        if self.distortion_model == "plumb_bob" and len(self.distortion) == 4:
            object.__setattr__(self, "distortion", (*self.distortion, 0.0))
        expected = COEFFICIENT_COUNTS[self.distortion_model]
        if len(self.distortion) != expected:
            what = f"{self.distortion_model} has {expected} coefficients, not {len(self.distortion)}: {self.distortion}"
            raise CameraError(what, where="distortion", cure="Give the model that the coefficients were fitted with")
        if not all(abs(value) <= LARGEST_COEFFICIENT for value in self.distortion):
            what = f"coefficients that are not finite, or beyond {LARGEST_COEFFICIENT:g}: {self.distortion}"
            raise CameraError(what, where="distortion", cure=_CALIBRATE)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Intrinsic matrix K [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def axial_focal_lengths(self) -> tuple[float, float]:
        """Pixels per unit of x/z and y/z on the optical axis: what resolutions are compared by."""
        magnification = axial_magnification(self.distortion_model, self.distortion)
        return self.fx * magnification, self.fy * magnification

    @property
    def horizontal_fov(self) -> float:
        """Angle in radians between the left and the right image edge at the height of the principal point."""
        return self._edge_angle(self.width - 0.5) - self._edge_angle(-0.5)

    def _edge_angle(self, u: float) -> float:
        """Return the angle to the right of the optical axis at pixel (u, cy); above 90° for a wide fisheye."""
        x = (u - self.cx) / self.fx
        if self.distortion_model == "equidistant":
            return math.copysign(float(undistorted_angle(self.distortion, np.array(abs(x)))[0]), x)
        if self.distortion_model == "mei":
            return math.copysign(float(mei_angle(self.distortion, np.array([x, 0.0]))[0]), x)
        ideal, _ = undistort(self.distortion_model, self.distortion, np.array([x, 0.0]))
        return math.atan(float(ideal[0]))

    def project(self, points_optical: Array) -> tuple[Array, Array]:
        """Project points into the image. `points_optical`: points [..., 3] in the optical frame, metres.

        Returns pixels [..., 2] and a mask [...] (bool) of the points that the camera shows. Those lie in front of it,
        within the valid radius of the lens model, and inside the pixel edges, `[-0.5, width - 0.5)` by `[-0.5, height -
        0.5)`. Pixels of points behind the camera are finite and mean nothing.
        """
        xp, points = floating(points_optical)
        z = points[..., 2]
        in_front = z > _SMALLEST_DEPTH
        depth = xp.where(in_front, z, xp.ones_like(z))
        xy, valid = distort(self.distortion_model, self.distortion, points[..., :2] / depth[..., None])
        pixels = xp.stack([xy[..., 0] * self.fx + self.cx, xy[..., 1] * self.fy + self.cy], axis=-1)
        return pixels, in_front & valid & self.contains(pixels)

    def contains(self, pixels: Array) -> Array:
        """Return whether pixels [..., 2] lie inside the image's pixel edges, as bool [...]."""
        u, v = pixels[..., 0], pixels[..., 1]
        return (u >= -0.5) & (u < self.width - 0.5) & (v >= -0.5) & (v < self.height - 0.5)

    def unproject(self, pixels: Array) -> Array:
        """Return the viewing rays of pixels.

        Returns points [..., 3] on the rays at z = 1 in the optical frame. NaN where the lens model has no such ray, as
        at pixels of a fisheye that look more than 90° away. `pixels`: pixel coordinates [..., 2], also between pixel
        centres and outside the image.
        """
        xp, pixels = floating(pixels)
        xy = xp.stack([(pixels[..., 0] - self.cx) / self.fx, (pixels[..., 1] - self.cy) / self.fy], axis=-1)
        ones = xp.ones_like(xy[..., :1])
        if self.distortion_model == "none":
            return xp.concat([xy, ones], axis=-1)
        ideal, valid = undistort(self.distortion_model, self.distortion, xy)
        rays = xp.concat([ideal, ones], axis=-1)
        return xp.where(valid[..., None], rays, xp.ones_like(rays) * math.nan)

    def normalise(self, pixels: Array) -> Array:
        """Map pixels [..., 2] to normalised coordinates: -1 and 1 are the outer edges of the first and last pixel."""
        xp, pixels = floating(pixels)
        x = (2.0 / self.width) * (pixels[..., 0] + 0.5) - 1.0
        y = (2.0 / self.height) * (pixels[..., 1] + 0.5) - 1.0
        return xp.stack([x, y], axis=-1)

    def pixel_centres(self) -> NDArray[np.float64]:
        """Return the pixel coordinates (u, v) of every pixel, [height, width, 2]."""
        u, v = np.meshgrid(np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64))
        return np.stack([u, v], axis=-1)

    def resized(self, width: int, height: int) -> "Camera":
        """Return the camera of the same image scaled to another size."""
        scale_x, scale_y = width / self.width, height / self.height
        return dataclasses.replace(
            self,
            fx=self.fx * scale_x,
            fy=self.fy * scale_y,
            cx=(self.cx + 0.5) * scale_x - 0.5,
            cy=(self.cy + 0.5) * scale_y - 0.5,
            width=width,
            height=height,
        )

    def of_resized_image(self, width: int, height: int) -> "Camera":
        """Return the camera of images that were published in another size than they were calibrated in.

        Raises CameraError where they do not have exactly the proportions of the calibrated ones: not resized alone, but
        cropped or stretched, which no size tells.
        """
        if (width, height) == (self.width, self.height):
            return self
        if width <= 0 or height <= 0 or width * self.height != height * self.width:
            raise CameraError(
                f"the image is {width}x{height}, the calibration is that of {self.width}x{self.height}: other "
                "proportions",
                where="width, height",
                cure="Publish the CameraInfo of this size; a crop belongs into its field roi, binning into binning_x "
                "and binning_y",
            )
        return self.resized(width, height)

    def agrees(self, other: "Camera") -> bool:
        """Whether another calibration, of images of the same size, moves no place in them by more than `LARGEST_MOVE`.

        Looked at are 9 x 9 places up to the corners, as far as this camera has rays there.
        """
        if self == other:
            return True
        if (self.width, self.height) != (other.width, other.height):
            return False
        columns, rows = (np.linspace(-0.5, size - 0.5, 9) for size in (self.width, self.height))
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        rays = self.unproject(pixels)
        seen = np.isfinite(rays).all(axis=-1)
        moved = np.linalg.norm(other.project(rays[seen])[0] - pixels[seen], axis=-1)
        return bool(moved.max(initial=0.0) <= LARGEST_MOVE)

    def cropped(self, left: int, top: int, width: int, height: int) -> "Camera":
        """Return the camera of the part that starts at pixel (left, top); it may reach beyond the image."""
        return dataclasses.replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def without_distortion(self) -> "Camera":
        """Return the ideal pinhole camera with the same intrinsics."""
        return dataclasses.replace(self, distortion_model="none", distortion=())


def _whole_number(name: str, value: float) -> int:
    if not math.isfinite(value) or int(value) != value:
        raise CameraError(f"{name} = {value} is not a whole number of pixels", where=name)
    return int(value)
