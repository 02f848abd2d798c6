"""The ground as its pixels show it: where pixels that show ground lie, from above.

Robots and the training compute it here. Far away, pixels of the ground are few and metres apart, so a smooth surface is
fitted to all of them, and what they leave of it is averaged over windows, the smaller the more of them there are.
"""

import cv2
import numpy as np

from scene_completion_ros.arrays import Doubles, Floats, Reals
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.cells import FARTHEST_FROM_LEVEL, STRIDE, CellVolume

SEEN = (
    3  # numbers that a column is given: height above the expected ground, metres, log (1 + count), and spread, metres
)
LIKELY = 0.8  # probability from which a pixel counts as ground
DOUBT = 0.1  # deviation of the logarithm of depth at which a pixel counts half
WINDOWS = 1, 5, 15, 45  # columns along the edges of windows
FEW = 4.0  # pixels of a window that count as much as all larger windows together
# Metres, on streets: the length that places are told in; how far off the surface a column counts 0.7; usual spread.
UNIT_M, OFF_M, SPREAD_M = 10.0, 0.05, 0.1
STEPS = 10  # of the robust fit
# How firmly the surface is expected to be level: its height, the slopes ahead and to the side, the bend, the twist.
FIRMNESS = np.diag([1.0, 10.0, 30.0, 100.0, 100.0])


def seen_ground(
    surfaces: Floats, on_ground: Reals, camera: Camera, volume: CellVolume, volume_from_camera: Doubles
) -> Floats:
    """What columns of cells are given of the ground, float32 [x y, `SEEN`].

    Args:
        surfaces: Logarithm of depth and its deviation of the pixels, float32 [h, w, 2], metres.
        on_ground: Probabilities that they show the ground [h, w].
        camera: Of these pixels.
        volume: Of the student.
        volume_from_camera: Pose of the camera in it, matrix [4, 4].
    """
    (count_x, count_y, _), edge, measure = volume.cells, STRIDE * volume.grid.voxel_size, volume.measure
    log_depth, deviation = surfaces.reshape(-1, 2).T.astype(np.float64)
    probability = on_ground.reshape(-1).astype(np.float64)
    chosen = np.flatnonzero(probability > LIKELY)
    rays = camera.unproject(camera.pixel_centres()).reshape(-1, 3)[chosen] @ volume_from_camera[:3, :3].T
    points = rays * np.exp(log_depth[chosen, None]) + volume_from_camera[:3, 3]
    x, y = (np.floor((points[:, axis] - volume.grid.origin[axis]) / edge).astype(int) for axis in (0, 1))
    above = points[:, 2] - volume.level
    farthest = FARTHEST_FROM_LEVEL * measure
    inside = (x >= 0) & (x < count_x) & (y >= 0) & (y < count_y) & (np.abs(above) < farthest)
    column, above = (x * count_y + y)[inside], above[inside]
    weight = (probability[chosen] ** 2 / (1.0 + (deviation[chosen] / DOUBT) ** 2))[inside]
    count, total, squares = (
        np.bincount(column, weight * above**power, count_x * count_y).astype(np.float64).reshape(count_x, count_y)
        for power in range(3)
    )
    surface = _surface(count, total, volume)
    left = np.zeros_like(surface)
    for size in WINDOWS[::-1]:
        around, off = (_window(each, size) for each in (count, total - count * surface))
        left = (off + FEW * left) / (around + FEW)
    height = surface + left
    around, off = (_window(each, WINDOWS[1]) for each in (count, squares - 2.0 * height * total + height**2 * count))
    spread = np.sqrt((np.maximum(off, 0.0) + FEW * (SPREAD_M * measure) ** 2) / (around + FEW))
    seen = np.clip(height, -farthest, farthest), np.log1p(count), np.minimum(spread, farthest)
    return np.stack(seen, axis=-1).reshape(-1, SEEN).astype(np.float32)


def _surface(count: Doubles, total: Doubles, volume: CellVolume) -> Doubles:
    """Heights [x, y] of the smooth surface of most columns, of counts and sums of heights of their pixels [x, y].

    A quadric that does not bend to the sides, by soft L1 with reweighted least squares, each column counting at most
    once.
    """
    edge, unit = STRIDE * volume.grid.voxel_size, UNIT_M * volume.measure
    x, y = ((volume.grid.origin[axis] + edge * (np.arange(size) + 0.5)) / unit for axis, size in enumerate(count.shape))
    x, y = np.meshgrid(x, y, indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y], axis=-1)
    known = count > 0.0
    given, weight = terms[known], np.minimum(count[known], 1.0)
    height, found = total[known] / count[known], np.zeros(terms.shape[-1])
    for _ in range(STEPS):
        counts = weight / np.sqrt(1.0 + ((height - given @ found) / (OFF_M * volume.measure)) ** 2)
        weighted = given * counts[:, None]
        found = np.linalg.solve(weighted.T @ given + FIRMNESS, weighted.T @ height)
    return np.asarray(terms @ found)


def _window(values: Doubles, size: int) -> Doubles:
    """Sums [x, y] over windows around each place."""
    return np.asarray(cv2.boxFilter(values, -1, (size, size), None, (-1, -1), False, cv2.BORDER_CONSTANT))
