"""The smooth error of the depths that pixels show, by all that is known of metres: by the road, and by motion.

Networks are off on streets that they did not learn from, and smoothly so: by a factor, and more to one side or farther
away. So the logarithm of depth is corrected by four numbers, a + b u + c l + d u l, of the column u (-1..1) and of the
logarithm l of the depth itself. What they should be tell pixels on the road, which lies where its plane is; corners
with a depth by motion; and the factor by motion (a linear model with normal priors; errors of the plane are estimated
with it, Cauchy weights keep out what is no road, or moves by itself). Nothing here is learned. It is defined once, for
NumPy and torch (array API), so that training and the robot cannot drift apart.
"""

import math
from typing import Any, NamedTuple

import array_api_compat
import cv2
import numpy as np

from scene_completion_ros.arrays import Floats
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.cells import Ground
from scene_completion_ros.inference.head import PointCodeSpec

NUMBERS = 4  # of the correction
# Standard deviations of these numbers on unknown streets, in that of the scale of depth there (`Ground`).
USUAL = (0.8, 0.8, 0.8, 0.5)
MIDDLE_M, LEAST_LOG, MOST_LOG = 12.0, -2.0, 1.8  # depth where l is 0, as on streets; and the range of l
FAR_OFF = 0.005  # by how much depth is off besides, for each metre of it: networks are too sure of what is far
# Pixels on the road: least probability, by how much the logarithm of their depth is off from the plane's, and as many
# of them as all that an image shows count like.
SURELY, PLANE_OFF, LIKE_PIXELS = 0.7, 0.05, 60.0
MOST_OFF = 0.5  # logarithm of depth from which what pixels see is a table or a ditch, and no road at another scale
FEW_PIXELS = 150.0  # of the half image, that count half as much as many
CORNER_OFF, CORNER_SHARE = 0.15, 0.5  # the same of corners; and the share of the information in each: they are alike
SCALE_M = 8.0  # depth, as on streets, of the corners that the factor by motion follows from
ROBUST = 0.08  # logarithm from which an observation counts half
STEPS = 3
LEAST_INVERSE = 1e-3  # per metre, of what is not the sky
STRIDE = 2  # of the pixels of the road that are looked at
# Pixels across the surroundings of a pixel, from far to near, in which the rest of the error is that at the corners;
# and the share of the deviation of a pixel that is left next to one.
AROUND, REST = (49, 17, 5), 0.5


class Measured(NamedTuple):
    """Measurements of depth by motion; zeros where there is none."""

    # Logarithm of the factor on depth that its motion gives, and precision of that (one over the variance) [..., 2].
    scale: Any
    depth: Any  # logarithm of the depth of a corner by motion (metres), and precision of that [..., 2, h, w]


class PlaneMaps(NamedTuple):
    """The plane of a road as the pixels of an image would show it."""

    log_depth: Any  # logarithm of its z-depth [..., h, w], metres; of a metre above its horizon
    counts: Any  # 1 where it lies in the range that counts, otherwise 0 [..., h, w]
    slopes: Any  # of the logarithm by roll, pitch and the logarithm of the height [..., 3, h, w]
    precision: Any  # inverse covariance of these three [..., 3, 3]


class Correction(NamedTuple):
    """What is to be added to the logarithm of the depth of pixels, and of the plane's roll, pitch and log height."""

    numbers: Any  # a, b, c, d [..., 4]
    covariance: Any  # [..., 4, 4]
    plane: Any  # [..., 3]
    plane_covariance: Any  # [..., 3, 3]


def plane_maps(camera: Camera, state: Any, precision: Any, kind: Ground) -> PlaneMaps:
    """What a plane of roll, pitch and log height [..., 3] (`RoadPlane.state`) would look like in a pinhole camera."""
    xp = array_api_compat.array_namespace(state)
    device, like = array_api_compat.device(state), state.dtype
    x = (xp.arange(camera.width, dtype=like, device=device) - camera.cx) / camera.fx
    y = ((xp.arange(camera.height, dtype=like, device=device) - camera.cy) / camera.fy)[:, None]
    roll, pitch, log_height = (state[..., number, None, None] for number in range(3))
    sin_roll, cos_roll, sin_pitch, cos_pitch = xp.sin(roll), xp.cos(roll), xp.sin(pitch), xp.cos(pitch)
    lateral = sin_roll * x + cos_roll * y
    below = lateral * cos_pitch + sin_pitch  # of `road_plane.normal` and each ray
    fall = xp.clip(below, min=1e-3)
    by_roll = -(cos_roll * x - sin_roll * y) * cos_pitch / fall
    by_pitch = -(cos_pitch - lateral * sin_pitch) / fall
    depth = xp.exp(log_height) / fall
    counts = xp.astype((below > 1e-3) & (depth > kind.nearest) & (depth < kind.farthest), like)
    slopes = xp.stack([by_roll, by_pitch, xp.ones_like(by_roll)], axis=-3)
    return PlaneMaps(xp.log(depth) * xp.astype(below > 1e-3, like), counts, slopes, precision)


def usual_precision(kind: Ground) -> list[float]:
    """Inverse variances of the four numbers on unknown streets."""
    return [(kind.scale_deviation * share) ** -2 for share in USUAL]


def basis(log_depth: Any, measure: float) -> Any:
    """What the four numbers are multiplied with [..., 4, h, w], of the logarithm of depth [..., h, w], metres."""
    xp = array_api_compat.array_namespace(log_depth)
    width = log_depth.shape[-1]
    across = xp.arange(width, dtype=log_depth.dtype, device=array_api_compat.device(log_depth))
    across = xp.zeros_like(log_depth) + (across - 0.5 * (width - 1)) / (0.5 * width)
    far = xp.clip(log_depth - math.log(MIDDLE_M * measure), min=LEAST_LOG, max=MOST_LOG)
    return xp.stack([xp.ones_like(far), across, far, across * far], axis=-3)


def depth_correction(
    inverse: Any, on_ground: Any, plane: PlaneMaps, kind: Ground, measure: float, measured: Measured | None = None
) -> Correction:
    """The most probable correction of the depths of an image, and of the plane.

    Args:
        inverse: Inverse z-depths of pixels, per metre [..., h, w].
        on_ground: Probabilities that a pixel shows the ground [..., h, w].
        plane: What is known of the plane of the road; a small precision where nothing is.
        kind: The ground.
        measure: Lengths here over those of a street.
        measured: What motion shows; None for nothing.
    """
    xp = array_api_compat.array_namespace(inverse)
    double, device = xp.float64, array_api_compat.device(inverse)
    log = -xp.log(xp.clip(inverse, min=LEAST_INVERSE))
    near = log[..., ::STRIDE, ::STRIDE]
    off = plane.log_depth[..., ::STRIDE, ::STRIDE] - near
    counts = plane.counts[..., ::STRIDE, ::STRIDE] * xp.astype(xp.abs(off) < MOST_OFF, inverse.dtype)
    counts = counts * xp.astype(on_ground[..., ::STRIDE, ::STRIDE] > SURELY, inverse.dtype)
    terms = xp.concat([basis(near, measure), -plane.slopes[..., ::STRIDE, ::STRIDE]], axis=-3)
    weight = counts * xp.exp(-plane.log_depth[..., ::STRIDE, ::STRIDE])  # pixels far away show more metres
    seen = STRIDE**2 * xp.sum(counts, axis=(-2, -1), keepdims=True)
    total = xp.clip(xp.sum(weight, axis=(-2, -1), keepdims=True), min=1e-9)
    weight = weight / total * (LIKE_PIXELS / PLANE_OFF**2) * seen / (seen + FEW_PIXELS)
    observed = [(_flat(terms), off.reshape(*off.shape[:-2], -1), weight.reshape(*off.shape[:-2], -1))]
    usual = xp.asarray([*usual_precision(kind), *[0.0] * 3], dtype=double, device=device)
    prior = usual[:, None] * xp.eye(7, dtype=double, device=device) + _padded(xp.astype(plane.precision, double))
    drawn = xp.zeros_like(prior[..., 0])
    if measured is not None:
        sensed, precision = (_flat(measured.depth[..., number, :, :]) for number in range(2))
        known, terms = xp.astype(precision > 0.0, inverse.dtype), basis(log, measure)
        terms = _flat(xp.concat([terms, xp.zeros_like(terms[..., :3, :, :])], axis=-3))
        doubt = 1.0 / xp.clip(precision, min=1e-6) + CORNER_OFF**2
        observed.append((terms, (sensed - _flat(log)) * known, known * CORNER_SHARE / doubt))
        row = [1.0, 0.0, math.log(SCALE_M / MIDDLE_M), *[0.0] * 4]
        row, scale = xp.asarray(row, dtype=double, device=device), xp.astype(measured.scale, double)
        prior = prior + scale[..., 1:, None] * row[:, None] * row
        drawn = drawn + scale[..., 1:] * scale[..., :1] * row
    state = xp.zeros_like(drawn)
    for again in range(STEPS):
        normal, gradient = prior, drawn
        for terms, off, weight in observed:
            left = off - (xp.astype(state, off.dtype)[..., None, :] @ terms)[..., 0, :]
            kept = weight / (1.0 + (left / ROBUST) ** 2) if again else weight
            weighted = terms * kept[..., None, :]
            normal = normal + xp.astype(weighted @ xp.matrix_transpose(terms), double)
            gradient = gradient + xp.astype((weighted @ off[..., None])[..., 0], double)
        state = xp.linalg.solve(normal, gradient[..., None])[..., 0]
    covariance = xp.linalg.inv(normal)
    found = state[..., :NUMBERS], covariance[..., :NUMBERS, :NUMBERS], state[..., NUMBERS:]
    return Correction(*found, covariance[..., NUMBERS:, NUMBERS:])


def corrected_depth(
    inverse: Any, deviation: Any, numbers: Any, covariance: Any, spec: PointCodeSpec, measure: float
) -> tuple[Any, Any]:
    """Inverse depths, not limited to positive ones, and deviations of their logarithm, both [..., h, w].

    `inverse`, `deviation`: the same before; `numbers`, `covariance`: see `Correction`. What is left of the doubt about
    the correction is added to that of each pixel, as is one that grows with depth.
    """
    xp = array_api_compat.array_namespace(inverse)
    terms = basis(-xp.log(xp.clip(inverse, min=LEAST_INVERSE)), measure)
    numbers, covariance = xp.astype(numbers, inverse.dtype), xp.astype(covariance, inverse.dtype)
    flat = _flat(terms)
    added = (numbers[..., None, :] @ flat).reshape(*inverse.shape)
    variance = xp.sum(flat * (covariance @ flat), axis=-2).reshape(*inverse.shape)
    far = FAR_OFF / xp.clip(inverse, min=1.0 / spec.far)
    return inverse * xp.exp(-added), xp.sqrt(deviation**2 + variance + far**2)


def with_corners(log_depth: Floats, deviation: Floats, sensed: Floats) -> tuple[Floats, Floats]:
    """Logarithms of depth and deviations [h, w] with depths of corners, at their pixels and, less surely, around them.

    What four numbers leave of the error is alike in neighbouring pixels. `sensed`: as `Measured.depth` [2, h, w].
    """
    precision = sensed[1]
    known = (precision > 0.0).astype(np.float32)
    off = (sensed[0] - log_depth) * known
    aside, trusted = np.zeros_like(off), np.zeros_like(off)
    for size in AROUND:
        count, total = (
            cv2.boxFilter(v, -1, (size, size), None, (-1, -1), False, cv2.BORDER_CONSTANT) for v in (known, off)
        )
        trusted = count / (count + 1.0)
        aside = aside + trusted * (total / np.maximum(count, 1.0) - aside)
    own = 1.0 / (deviation * (1.0 - (1.0 - REST) * trusted)) ** 2
    moved = aside + precision / (own + precision) * (off - aside) * known
    return log_depth + moved, 1.0 / np.sqrt(own + precision)


def _flat(maps: Any) -> Any:
    return maps.reshape(*maps.shape[:-2], -1)


def _padded(precision: Any) -> Any:
    """Precision of the plane [..., 3, 3] in that of the whole state [..., 7, 7]."""
    xp = array_api_compat.array_namespace(precision)
    beside, above = xp.zeros_like(precision[..., :1]), xp.zeros_like(precision[..., :1, :])
    wide = xp.concat([beside] * NUMBERS + [precision], axis=-1)
    above = xp.concat([above] * 2 + [above[..., :1]], axis=-1)
    return xp.concat([above] * NUMBERS + [wide], axis=-2)
