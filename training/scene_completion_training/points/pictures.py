"""What features of points look like: their three principal components as colours, seen from above and from a corner."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform

CUT = 2.0  # metres above the floor: pictures leave out what is higher, or they would show the ceiling
_FLOOR = 0.01  # share of the points that may be lower than the floor
_SPREAD = (0.02, 0.98)  # quantiles of a component that become the darkest and the brightest


def principal_colours(features: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGB [N, 3]: the three first principal components of features [N, D], each spread between its quantiles.

    A component points to where the sum of its coefficients is positive.
    """
    values = np.asarray(features, np.float32)
    mean = values.mean(axis=0)
    covariance = values.T @ values / len(values) - np.outer(mean, mean)
    axes = np.linalg.eigh(covariance.astype(np.float64))[1][:, ::-1][:, :3]
    axes *= np.where(axes.sum(axis=0) < 0.0, -1.0, 1.0)
    shares = np.full((len(values), 3), 0.5)
    components = (values - mean) @ axes
    low, high = np.quantile(components, _SPREAD, axis=0)
    shares[:, : axes.shape[1]] = (components - low) / np.maximum(high - low, 1e-9)
    return np.asarray(255.0 * np.clip(shares, 0.0, 1.0), np.uint8)


def seen_from_above(points: NDArray[np.float32], colours: NDArray[np.uint8], *, width: int = 800) -> NDArray[np.uint8]:
    """A picture [H, W, 3] of points [N, 3] (z up, metres) in parallel projection: x to the right, y up."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (width - 1) / max(float((high - low)[:2].max()), 1e-6)
    pixels = np.stack([points[:, 0] - low[0], high[1] - points[:, 1]], axis=1) * scale
    height = int((high[1] - low[1]) * scale) + 1
    return _painted(pixels, high[2] - points[:, 2], colours, _below_ceiling(points), width, height)


def seen_from_a_corner(
    points: NDArray[np.float32], colours: NDArray[np.uint8], *, width: int = 800
) -> NDArray[np.uint8]:
    """A picture [H, W, 3] in perspective, from above the corner of least x and y to the middle."""
    shown = _below_ceiling(points)
    low, high = points[shown].min(axis=0).astype(np.float64), points[shown].max(axis=0).astype(np.float64)
    middle, size = (low + high) / 2.0, float(np.linalg.norm(high - low))
    ahead = np.array([0.55, 0.6, -0.58])
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    world_from_camera = RigidTransform(np.stack([right, np.cross(ahead, right), ahead], axis=1), middle - size * ahead)
    height = width * 3 // 4
    camera = Camera(width, width, (width - 1) / 2.0, (height - 1) / 2.0, width, height)
    seen = np.asarray(world_from_camera.inverse().apply(points.astype(np.float64)))
    pixels, valid = camera.project(seen)
    return _painted(np.asarray(pixels), seen[:, 2], colours, shown & np.asarray(valid), width, height)


def _below_ceiling(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(points[:, 2] <= np.quantile(points[:, 2], _FLOOR) + CUT)


def _painted(
    pixels: NDArray[np.floating],
    depth: NDArray[np.floating],
    colours: NDArray[np.uint8],
    shown: NDArray[np.bool_],
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """Points [N] as squares on white, near ones over far ones; squares are as large as the points are sparse."""
    picture = np.full((height, width, 3), 255, np.uint8)
    rows = np.flatnonzero(shown)
    rows = rows[np.argsort(-depth[rows], kind="stable")]
    half = int(np.clip(1.5 * np.sqrt(width * height / max(len(rows), 1)), 1, 12)) // 2
    steps = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2), axis=-1).reshape(-1, 2)
    places = (np.rint(pixels[rows]).astype(np.int64)[:, None] + steps).reshape(-1, 2)
    inside = ((places >= 0) & (places < (width, height))).all(axis=1)
    column, row = places[inside].T
    picture[row, column] = np.repeat(colours[rows], len(steps), axis=0)[inside]  # of several, the last one stays
    return picture
