"""The camera model: intrinsics in pixels, image size and lens distortion.

This is the one place of the conventions. The optical frame has x right, y down, z forward. Pixel (0, 0) is the centre
of the top-left pixel, so that an image covers [-0.5, width - 0.5) horizontally. Normalised coordinates run from -1 to 1
between the pixel edges (`align_corners=False`).

Lens distortion of normalised image coordinates (x/z, y/z), and its inverse.

The models are those of ROS and OpenCV. A fitted polynomial is only meant for the angles it was fitted on. Beyond the
radius at which it stops growing it folds distant points back into the image. Both directions therefore return which
points lie inside that radius.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.transforms import Array, Namespace, floating
from scene_completion_ros.untrusted_files import JsonObject

DistortionModel = Literal["none", "plumb_bob", "rational_polynomial", "equidistant", "mei"]

# plumb_bob: k1 k2 p1 p2 k3. rational_polynomial: the same and k4 k5 k6. equidistant: k1 … k4 (Kannala-Brandt). mei: xi
# k1 k2 p1 p2 (unified omnidirectional model, Mei and Rives 2007; the focal lengths are its gammas).
COEFFICIENT_COUNTS: dict[DistortionModel, int] = {
    "none": 0,
    "plumb_bob": 5,
    "rational_polynomial": 8,
    "equidistant": 4,
    "mei": 5,
}

_LARGEST_RADIUS = 1e3  # 89.94° off axis; no lens is described by x/z further out
_LARGEST_ANGLE = math.atan(_LARGEST_RADIUS)
_NEGLIGIBLE = 1e-30  # a coefficient below it changes nothing within the largest radius, but its roots overflow
_RADIAL_ITERATIONS = 40
_TANGENTIAL_ITERATIONS = 10
_RESIDUAL_TOLERANCE = 1e-5  # of normalised coordinates: a hundredth of a pixel at fx = 1000


def distort(model: DistortionModel, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    """Apply the lens to ideal normalised coordinates.

    `coefficients`: as many as `COEFFICIENT_COUNTS` lists; `xy`: ideal coordinates x/z, y/z [..., 2]. Returns distorted
    coordinates [..., 2] and whether the model is valid there [...] (bool). Points outside the valid radius are first
    moved onto it, so that their image stays finite and in the right direction.
    """
    xp, xy = floating(xy)
    if model == "none":
        return xy, xp.isfinite(xy[..., 0]) & xp.isfinite(xy[..., 1])
    if model == "equidistant":
        return _distort_equidistant(xp, coefficients, xy)
    if model == "mei":
        return _distort_mei(xp, coefficients, xy)
    limit = _valid_radius(coefficients)
    return _brown_conrady(xp, _padded(coefficients), _within(xp, xy, limit))[0], _radius(xp, xy) <= limit


def undistort(model: DistortionModel, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    """Invert `distort` by a bracketed Newton iteration; `model`: any but "none".

    `coefficients`: as many as `COEFFICIENT_COUNTS` lists; `xy`: distorted coordinates [..., 2]. Returns ideal
    coordinates x/z, y/z [..., 2] and whether a solution exists [...] (bool). Where none exists, for instance at pixels
    of a fisheye that look more than 90° away, the coordinates are those of the valid limit.
    """
    xp, xy = floating(xy)
    radius = _radius(xp, xy)
    if model == "equidistant":
        angle, valid = undistorted_angle(coefficients, radius)
        ratio = xp.tan(xp.clip(angle, None, _LARGEST_ANGLE)) / _nonzero(xp, radius)
        ratio = xp.where(radius > 0.0, ratio, xp.ones_like(ratio))
        return xy * ratio[..., None], valid & (angle <= _LARGEST_ANGLE)
    if model == "mei":
        return _undistort_mei(xp, coefficients, xy)
    return _undistort_brown_conrady(xp, coefficients, xy, radius)


def undistorted_angle(coefficients: tuple[float, ...], radius: Array) -> tuple[Array, Array]:
    """Return the angle off the optical axis (radians) seen at a distorted radius, for the equidistant model.

    `coefficients`: k1 … k4; `radius`: distorted radius [...], ≥ 0, in focal lengths. Returns angle [...], also above
    90°, and whether the polynomial reaches that radius [...] (bool).
    """
    xp, radius = floating(radius)
    polynomial = _equidistant_polynomial(coefficients)
    slope = polynomial.deriv()
    limit = _valid_angle(coefficients)
    return _solve_increasing(xp, lambda at: (_evaluate(polynomial, at), _evaluate(slope, at)), radius, limit)


@lru_cache(maxsize=64)
def _valid_radius(coefficients: tuple[float, ...]) -> float:
    """Ideal radius √(x² + y²)/z up to which the distorted radius grows, of plumb_bob and of the rational model."""
    k1, k2, _, _, k3, k4, k5, k6 = _padded(coefficients)
    numerator, denominator = Polynomial([1.0, k1, k2, k3]), Polynomial([1.0, k4, k5, k6])  # in s = r²
    twice_s = Polynomial([0.0, 2.0])
    slope = (numerator + twice_s * numerator.deriv()) * denominator - twice_s * numerator * denominator.deriv()
    turning = min(_first_positive_root(slope), _first_positive_root(denominator))
    return min(math.sqrt(turning), _LARGEST_RADIUS)


@lru_cache(maxsize=64)
def _valid_angle(coefficients: tuple[float, ...]) -> float:
    k1, k2, k3, k4 = coefficients
    turning = _first_positive_root(Polynomial([1.0, 3.0 * k1, 5.0 * k2, 7.0 * k3, 9.0 * k4]))  # in θ²
    return min(math.sqrt(turning), math.pi)


def _first_positive_root(polynomial: Polynomial) -> float:
    roots = polynomial.trim(_NEGLIGIBLE).roots()
    real = roots[np.abs(roots.imag) <= 1e-9 * np.maximum(1.0, np.abs(roots))].real
    return float(min(real[real > 0.0], default=math.inf))


def _padded(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """Write plumb_bob as the rational model whose denominator is 1."""
    return coefficients + (0.0,) * (8 - len(coefficients))


def _radius(xp: Namespace, xy: Array) -> Array:
    return xp.sqrt(xy[..., 0] ** 2 + xy[..., 1] ** 2)


def _nonzero(xp: Namespace, array: Array) -> Array:
    return xp.where(array == 0.0, xp.ones_like(array), array)


def _equidistant_polynomial(coefficients: tuple[float, ...]) -> Polynomial:
    k1, k2, k3, k4 = coefficients
    return Polynomial([0.0, 1.0, 0.0, k1, 0.0, k2, 0.0, k3, 0.0, k4])


def _distort_equidistant(xp: Namespace, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    limit = min(_valid_angle(coefficients), _LARGEST_ANGLE)
    radius = _radius(xp, xy)
    angle = xp.atan(radius)
    inside = angle <= limit
    distorted = _evaluate(_equidistant_polynomial(coefficients), xp.clip(angle, None, limit))
    ratio = xp.where(radius > 0.0, distorted / _nonzero(xp, radius), xp.ones_like(radius))
    return xy * ratio[..., None], inside


def _mei_lens(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """The lens behind the sphere: plumb_bob without k3."""
    return (*coefficients[1:], 0.0)


@lru_cache(maxsize=64)
def _valid_radius_mei(coefficients: tuple[float, ...]) -> float:
    """Ideal radius up to which neither the sphere nor the lens behind it folds."""
    xi, limit = coefficients[0], _valid_radius(_mei_lens(coefficients))
    radius = np.geomspace(1e-3, _LARGEST_RADIUS, 4096)
    mirror = radius / (1.0 + xi * np.sqrt(1.0 + radius**2))
    folds = np.flatnonzero((mirror > limit) | (np.diff(mirror, append=math.inf) <= 0.0))
    return float(radius[folds[0]]) if len(folds) else _LARGEST_RADIUS


def _distort_mei(xp: Namespace, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    """Project on the unit sphere, from xi behind its centre on a plane, and through a lens (Mei and Rives 2007)."""
    limit = _valid_radius_mei(coefficients)
    inside, xy = _radius(xp, xy) <= limit, _within(xp, xy, limit)
    norm = xp.sqrt(1.0 + xy[..., 0] ** 2 + xy[..., 1] ** 2)
    mirror = xy / (1.0 + coefficients[0] * norm)[..., None]
    return _brown_conrady(xp, _padded(_mei_lens(coefficients)), mirror)[0], inside


def _undistort_mei(xp: Namespace, coefficients: tuple[float, ...], distorted: Array) -> tuple[Array, Array]:
    xi, lens = coefficients[0], _mei_lens(coefficients)
    mirror, valid = _undistort_brown_conrady(xp, lens, distorted, _radius(xp, distorted))
    squared = mirror[..., 0] ** 2 + mirror[..., 1] ** 2
    root = 1.0 + (1.0 - xi * xi) * squared
    # Lifts (x, y, 1) on the sphere about (0, 0, xi).
    stretch = (xi + xp.sqrt(xp.clip(root, 0.0, None))) / (squared + 1.0)
    depth = stretch - xi  # of the point on the unit sphere
    forward = depth > math.cos(_LARGEST_ANGLE)
    ideal = mirror * (stretch / xp.where(forward, depth, xp.ones_like(depth)))[..., None]
    return ideal, valid & (root >= 0.0) & forward


def _evaluate(polynomial: Polynomial, at: Array) -> Array:
    """Horner's scheme; `Polynomial.__call__` would turn a torch tensor into a NumPy array."""
    first, *rest = reversed(polynomial.coef.tolist())
    value = first + 0.0 * at
    for coefficient in rest:
        value = value * at + coefficient
    return value


def _brown_conrady(xp: Namespace, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, tuple[Array, ...]]:
    """Return distorted coordinates and the elements xx, xy, yy of the (symmetric) Jacobian."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
    x, y = xy[..., 0], xy[..., 1]
    s = x * x + y * y
    numerator, denominator = 1.0 + s * (k1 + s * (k2 + s * k3)), 1.0 + s * (k4 + s * (k5 + s * k6))
    radial = numerator / denominator
    slope = (k1 + s * (2 * k2 + 3 * s * k3) - radial * (k4 + s * (2 * k5 + 3 * s * k6))) / denominator
    distorted = xp.stack(
        [x * radial + 2 * p1 * x * y + p2 * (s + 2 * x * x), y * radial + p1 * (s + 2 * y * y) + 2 * p2 * x * y],
        axis=-1,
    )
    jacobian = (
        radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
        2 * x * y * slope + 2 * p1 * x + 2 * p2 * y,
        radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
    )
    return distorted, jacobian


def _undistort_brown_conrady(
    xp: Namespace, coefficients: tuple[float, ...], distorted: Array, radius: Array
) -> tuple[Array, Array]:
    """Invert the radial part safely, then refine with the tangential part by Newton's method in two dimensions."""
    limit = _valid_radius(coefficients)
    padded = k1, k2, _, _, *others = _padded(coefficients)

    def value_and_slope(radius: Array) -> tuple[Array, Array]:
        on_axis = xp.stack([radius, xp.zeros_like(radius)], axis=-1)
        distorted, (slope, _, _) = _brown_conrady(xp, (k1, k2, 0.0, 0.0, *others), on_axis)
        return distorted[..., 0], slope

    ideal_radius, _ = _solve_increasing(xp, value_and_slope, radius, limit)
    ratio = xp.where(radius > 0.0, ideal_radius / _nonzero(xp, radius), xp.ones_like(radius))
    xy = distorted * ratio[..., None]
    for _ in range(_TANGENTIAL_ITERATIONS):
        estimate, (xx, cross, yy) = _brown_conrady(xp, padded, xy)
        error = estimate - distorted
        determinant = _nonzero(xp, xx * yy - cross * cross)
        step_x = (yy * error[..., 0] - cross * error[..., 1]) / determinant
        step_y = (xx * error[..., 1] - cross * error[..., 0]) / determinant
        xy = _within(xp, xy - xp.stack([step_x, step_y], axis=-1), limit)
    residual = _radius(xp, _brown_conrady(xp, padded, xy)[0] - distorted)
    return xy, residual <= _RESIDUAL_TOLERANCE


def _within(xp: Namespace, xy: Array, limit: float) -> Array:
    radius = _radius(xp, xy)
    return xy * (limit / xp.where(radius > limit, radius, xp.ones_like(radius) * limit))[..., None]


def _solve_increasing(
    xp: Namespace, value_and_slope: Callable[[Array], tuple[Array, Array]], target: Array, limit: float
) -> tuple[Array, Array]:
    """Solve f(x) = target on [0, limit] for an increasing f: Newton steps, halving where they leave the bracket."""
    low = xp.zeros_like(target)
    high = xp.ones_like(target) * limit
    x = xp.clip(target, 0.0, limit)
    for _ in range(_RADIAL_ITERATIONS):
        value, slope = value_and_slope(x)
        low = xp.where(value <= target, x, low)
        high = xp.where(value > target, x, high)
        newton = x - (value - target) / _nonzero(xp, slope)
        previous, x = x, xp.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        if not bool(xp.any(xp.abs(x - previous) > 4.0 * xp.finfo(x.dtype).eps * limit)):
            break
    reachable = target <= value_and_slope(xp.ones_like(target) * limit)[0]
    return xp.where(reachable, x, xp.ones_like(x) * limit), reachable


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
        if self.distortion_model not in COEFFICIENT_COUNTS:
            what = f"unknown distortion model {self.distortion_model!r}"
            raise CameraError(what, where="distortion_model", cure=f"Use one of {', '.join(COEFFICIENT_COUNTS)}")
        object.__setattr__(self, "distortion", checked_distortion(self.distortion_model, self.distortion))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Intrinsic matrix K [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def axial_focal_lengths(self) -> tuple[float, float]:
        """Pixels per unit of x/z and y/z on the optical axis: what resolutions are compared by."""
        magnification = 1.0 / (1.0 + self.distortion[0]) if self.distortion_model == "mei" else 1.0  # behind the sphere
        return self.fx * magnification, self.fy * magnification

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
        cropped or stretched, which no size shows.
        """
        if (width, height) == (self.width, self.height):
            return self
        if width <= 0 or height <= 0 or width * self.height != height * self.width:
            what = f"the image is {width}x{height}, the calibration is that of {self.width}x{self.height}"
            cure = "Publish the CameraInfo of this size; a crop belongs into its field roi, binning into "
            cure += "binning_x and binning_y"
            raise CameraError(f"{what}: other proportions", where="width, height", cure=cure)
        return self.resized(width, height)

    def agrees(self, other: "Camera") -> bool:
        """Whether another calibration, of images of the same size, moves no place in them by more than `LARGEST_MOVE`.

        Looked at are 9 x 9 places up to the corners, as far as this camera has rays there.
        """
        return self.moves(other) <= LARGEST_MOVE

    def moves(self, other: "Camera") -> float:
        """By how many pixels another calibration moves places in the image (`agrees`); infinite for other sizes."""
        if self == other:
            return 0.0
        if (self.width, self.height) != (other.width, other.height):
            return math.inf
        columns, rows = (np.linspace(-0.5, size - 0.5, 9) for size in (self.width, self.height))
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        rays = self.unproject(pixels)
        seen = np.isfinite(rays).all(axis=-1)
        return float(np.linalg.norm(other.project(rays[seen])[0] - pixels[seen], axis=-1).max(initial=0.0))

    def cropped(self, left: int, top: int, width: int, height: int) -> "Camera":
        """Return the camera of the part that starts at pixel (left, top); it may reach beyond the image."""
        return dataclasses.replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def without_distortion(self) -> "Camera":
        """Return the ideal pinhole camera with the same intrinsics."""
        return dataclasses.replace(self, distortion_model="none", distortion=())


def checked_distortion(model: DistortionModel, coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """All coefficients of a model; plumb_bob may leave out k3. Raises CameraError: not as many, or no numbers."""
    values = tuple(float(value) for value in coefficients)
    if model == "plumb_bob" and len(values) == 4:
        values = (*values, 0.0)
    expected = COEFFICIENT_COUNTS[model]
    if len(values) != expected:
        what = f"{model} has {expected} coefficients, not {len(values)}: {list(values)}"
        cure = "Name the model that they were fitted with; thin-prism and tilt terms are not supported"
        raise CameraError(what, where="distortion", cure=cure)
    if not all(abs(value) <= LARGEST_COEFFICIENT for value in values):
        what = f"coefficients that are not finite, or beyond {LARGEST_COEFFICIENT:g}: {list(values)}"
        raise CameraError(what, where="distortion", cure=_CALIBRATE)
    return values


def camera_of(fields: JsonObject) -> Camera:
    """The camera that an object of a file describes, by the names of its fields; no lens is a pinhole."""
    fx, fy, cx, cy = (fields.number(name) for name in ("fx", "fy", "cx", "cy"))
    width, height = fields.integer("width"), fields.integer("height")
    lens: tuple[Any, ...] = ()
    if "distortion_model" in fields.values:
        lens = fields.text("distortion_model"), fields.numbers("distortion")
    try:
        return Camera(fx, fy, cx, cy, width, height, *lens)
    except CameraError as error:
        raise fields.error("", error.what) from error


def _whole_number(name: str, value: float) -> int:
    if not math.isfinite(value) or int(value) != value:
        raise CameraError(f"{name} = {value} is not a whole number of pixels", where=name)
    return int(value)
