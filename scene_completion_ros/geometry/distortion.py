"""Lens distortion of normalised image coordinates (x/z, y/z), and its inverse.

The models are those of ROS and OpenCV. A fitted polynomial is only meant for the angles it was fitted on. Beyond the
radius at which it stops growing it folds distant points back into the image. Both directions therefore return which
points lie inside that radius.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

from scene_completion_ros.geometry.arrays import Array, Namespace, floating

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

    `coefficients`: as many as `COEFFICIENT_COUNTS` says; `xy`: ideal coordinates x/z, y/z [..., 2]. Returns distorted
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
    limit = valid_radius(model, coefficients)
    radius = _radius(xp, xy)
    inside = radius <= limit
    shrink = limit / xp.where(inside, xp.ones_like(radius) * limit, radius)
    return _brown_conrady(xp, _padded(coefficients), xy * shrink[..., None])[0], inside


def undistort(model: DistortionModel, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    """Invert `distort` by a bracketed Newton iteration.

    `coefficients`: as many as `COEFFICIENT_COUNTS` says; `xy`: distorted coordinates [..., 2]. Returns ideal
    coordinates x/z, y/z [..., 2] and whether a solution exists [...] (bool). Where none exists, for instance at pixels
    of a fisheye that look more than 90° away, the coordinates are those of the valid limit.
    """
    xp, xy = floating(xy)
    if model == "none":
        return xy, xp.isfinite(xy[..., 0]) & xp.isfinite(xy[..., 1])
    radius = _radius(xp, xy)
    if model == "equidistant":
        angle, valid = undistorted_angle(coefficients, radius)
        ratio = xp.tan(xp.clip(angle, None, _LARGEST_ANGLE)) / _nonzero(xp, radius)
        ratio = xp.where(radius > 0.0, ratio, xp.ones_like(ratio))
        return xy * ratio[..., None], valid & (angle <= _LARGEST_ANGLE)
    if model == "mei":
        return _undistort_mei(xp, coefficients, xy)
    return _undistort_brown_conrady(xp, model, coefficients, xy, radius)


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


def mei_angle(coefficients: tuple[float, ...], distorted: Array) -> tuple[Array, Array]:
    """Return the angle off the optical axis (radians) seen at distorted coordinates, for the MEI model.

    `coefficients`: xi, k1, k2, p1, p2; `distorted`: distorted coordinates [..., 2]. Returns angle [...], also above
    90°, and whether the model has a ray there [...] (bool).
    """
    xp, distorted = floating(distorted)
    mirror, stretch, valid = _lift_to_sphere(xp, coefficients, distorted)
    return xp.atan2(stretch * _radius(xp, mirror), stretch - coefficients[0]), valid


def axial_magnification(model: DistortionModel, coefficients: tuple[float, ...]) -> float:
    """Return how much the lens magnifies on the optical axis: 1, but 1 / (1 + xi) behind the sphere of MEI."""
    return 1.0 / (1.0 + coefficients[0]) if model == "mei" else 1.0


@lru_cache(maxsize=64)
def valid_radius(model: DistortionModel, coefficients: tuple[float, ...]) -> float:
    """Return the ideal radius √(x² + y²)/z up to which the distorted radius grows."""
    if model == "none":
        return math.inf
    if model == "equidistant":
        return math.tan(min(_valid_angle(coefficients), _LARGEST_ANGLE))
    if model == "mei":
        return _valid_radius_mei(coefficients)
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
    xi, limit = coefficients[0], valid_radius("plumb_bob", _mei_lens(coefficients))
    radius = np.geomspace(1e-3, _LARGEST_RADIUS, 4096)
    mirror = radius / (1.0 + xi * np.sqrt(1.0 + radius**2))
    folds = np.flatnonzero((mirror > limit) | (np.diff(mirror, append=math.inf) <= 0.0))
    return float(radius[folds[0]]) if len(folds) else _LARGEST_RADIUS


def _distort_mei(xp: Namespace, coefficients: tuple[float, ...], xy: Array) -> tuple[Array, Array]:
    """Project on the unit sphere, from xi behind its centre on a plane, and through a lens (Mei and Rives 2007)."""
    limit = _valid_radius_mei(coefficients)
    radius = _radius(xp, xy)
    inside = radius <= limit
    xy = xy * (limit / xp.where(inside, xp.ones_like(radius) * limit, radius))[..., None]
    norm = xp.sqrt(1.0 + xy[..., 0] ** 2 + xy[..., 1] ** 2)
    mirror = xy / (1.0 + coefficients[0] * norm)[..., None]
    return _brown_conrady(xp, _padded(_mei_lens(coefficients)), mirror)[0], inside


def _lift_to_sphere(xp: Namespace, coefficients: tuple[float, ...], distorted: Array) -> tuple[Array, Array, Array]:
    """Return coordinates before the lens, the factor that lifts (x, y, 1) on the sphere about (0, 0, xi), validity."""
    xi, lens = coefficients[0], _mei_lens(coefficients)
    mirror, valid = _undistort_brown_conrady(xp, "plumb_bob", lens, distorted, _radius(xp, distorted))
    squared = mirror[..., 0] ** 2 + mirror[..., 1] ** 2
    root = 1.0 + (1.0 - xi * xi) * squared
    stretch = (xi + xp.sqrt(xp.clip(root, 0.0, None))) / (squared + 1.0)
    return mirror, stretch, valid & (root >= 0.0)


def _undistort_mei(xp: Namespace, coefficients: tuple[float, ...], distorted: Array) -> tuple[Array, Array]:
    mirror, stretch, valid = _lift_to_sphere(xp, coefficients, distorted)
    depth = stretch - coefficients[0]  # of the point on the unit sphere
    forward = depth > math.cos(_LARGEST_ANGLE)
    ideal = mirror * (stretch / xp.where(forward, depth, xp.ones_like(depth)))[..., None]
    return ideal, valid & forward


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
    xp: Namespace, model: DistortionModel, coefficients: tuple[float, ...], distorted: Array, radius: Array
) -> tuple[Array, Array]:
    """Invert the radial part safely, then refine with the tangential part by Newton's method in two dimensions."""
    limit = valid_radius(model, coefficients)
    padded = _padded(coefficients)
    ideal_radius, _ = _invert_radial(xp, padded, radius, limit)
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


def _invert_radial(xp: Namespace, padded: tuple[float, ...], target: Array, limit: float) -> tuple[Array, Array]:
    k1, k2, _, _, k3, k4, k5, k6 = padded
    radial_only = (k1, k2, 0.0, 0.0, k3, k4, k5, k6)

    def value_and_slope(radius: Array) -> tuple[Array, Array]:
        on_axis = xp.stack([radius, xp.zeros_like(radius)], axis=-1)
        distorted, (slope, _, _) = _brown_conrady(xp, radial_only, on_axis)
        return distorted[..., 0], slope

    return _solve_increasing(xp, value_and_slope, target, limit)


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
