"""How the ground lies in the camera, estimated from fused stereo voxels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.data.prepared import PreparedFrame
from scene_completion_training.data.voxel_evidence import POINT_UNIT
from scene_completion_training.viewpoint import STREET_HEIGHT_M, Viewpoint

_FRAMES = 12
_FITS = 10
_TOLERANCE = 0.05
_FEWEST_POINTS = 50
_STEEPEST = 0.1  # a fit that is steeper met a wall or a kerb


def ground_roll(frames: Sequence[PreparedFrame], viewpoint: Viewpoint) -> float:
    """Angle by which the ground's y (down) grows with the left camera's x, radians: the mean over up to a dozen frames.

    Cameras are rarely level with the road (KITTI's stands about 1° askew). A scene mirrored in the camera's own plane
    would show the road tilted to the other side. It is 0 where no ground is seen at the viewpoint's height.
    """
    slopes = [_slope(frame, viewpoint) for frame in frames[:: -(-len(frames) // _FRAMES)]]
    found = [slope for slope in slopes if slope is not None and abs(slope) < _STEEPEST]
    return float(np.arctan(np.mean(found))) if found else 0.0


def _slope(frame: PreparedFrame, viewpoint: Viewpoint) -> float | None:
    """Slope along x of a plane fitted to occupied voxels of the road ahead, by reweighted least squares."""
    scale = viewpoint.height_above_ground / STREET_HEIGHT_M
    points = frame.points[frame.target > 180] * POINT_UNIT
    ahead = (points[:, 2] > 4.0 * scale) & (points[:, 2] < 20.0 * scale)
    road = points[ahead & (np.abs(points[:, 0]) < 5.0 * scale)]
    # The road is the lowest big thing: what lies well above the median of the lower half is no road.
    road = road[road[:, 1] > 0.5 * scale]
    if len(road) < _FEWEST_POINTS:
        return None
    height = np.median(road[road[:, 1] >= np.median(road[:, 1]), 1])
    road = road[np.abs(road[:, 1] - height) < max(0.4 * scale, 2.0 * viewpoint.volume.voxel_size)]
    if len(road) < _FEWEST_POINTS:
        return None
    plane: NDArray[np.float64] = np.stack([road[:, 0], road[:, 2], np.ones(len(road))], axis=-1)
    weight = np.ones(len(road))
    coefficients = np.zeros(3)
    for _ in range(_FITS):
        coefficients = np.linalg.lstsq(plane * weight[:, None], road[:, 1] * weight, rcond=None)[0]
        residual = road[:, 1] - plane @ coefficients
        weight = 1.0 / np.sqrt(1.0 + (residual / _TOLERANCE) ** 2)
    return float(coefficients[0])
