"""Depth of single corners by motion: what a network is wrong about here and there, not by one factor.

A wall that the network puts a fifth too near moves through the image as one that is far. A corner that is found again
in images of some metres before has a depth by triangulation, once these images say how the camera moved. One that they
do not agree about, or that is far off from what the network says, moves by itself or was confused with another.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.followed_corners import CornerFollower, Doubles, PosedImage, Way

BASELINES_M = ((0.9, 1.5, 2.25), (2.1, 3.5, 5.25), (4.2, 7.0, 10.5))  # ways to earlier images, see `MotionScale`
FARTHEST_M, NEAR_M = 60.0, 15.0  # depths of corners; and of those that say how the camera moved
CORNERS, FEWEST, APART_PX = 400, 25, 5
# Standard deviations: of a place in an image, pixels; of the logarithm of the network's depth of a corner, once all are
# scaled; of that of a depth by motion, at most, and what is added to it.
PIXEL, NETWORK, MOST_DEVIATION, ALWAYS = 0.4, 0.15, 0.1, 0.02
AGREES = 4.0  # squared distance in standard deviations, in each image
MOST_OFF = 0.25  # logarithm of a depth by motion over that of the network


def depths_of_corners(
    follower: CornerFollower, now: PosedImage, pasts: Sequence[PosedImage], inverse: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """Depths of corners as `Evidence.sensed`, float32 [2, H / 2, W / 2]; None where no earlier image helps.

    `inverse`: inverse depth [H / 2, W / 2] by the network, 1 / m, scaled by what is known of all.
    """
    corners = follower.corners(now.grey, inverse, FARTHEST_M, CORNERS, APART_PX)
    points = follower.points(corners, inverse)
    near = points[:, 2] < NEAR_M * follower.measure
    seen: list[tuple[Doubles, NDArray[np.bool_], Way]] = []
    for past in pasts:
        found, kept = follower.follow(now, past, inverse, corners)
        if np.count_nonzero(kept & near) < FEWEST:
            continue
        way = follower.way(points[kept & near], found[kept & near], past.pose.inverse() @ now.pose)
        if not way.refusal():
            seen.append((found, kept, way))
    if not seen:
        return None
    centre = float(np.mean([way.log_factor for _, _, way in seen]))
    log, precision, agree = _triangulated(follower, points, seen, centre)
    deviation = 1.0 / np.sqrt(np.maximum(precision, 1e-9))
    kept = agree & (deviation < MOST_DEVIATION) & (np.abs(log - centre) < MOST_OFF)
    column, row = np.rint(corners[kept, 0]).astype(np.int64).T
    sensed = np.zeros((2, *inverse.shape), np.float32)
    sensed[0, row, column] = np.log(points[kept, 2]) + log[kept]
    sensed[1, row, column] = 1.0 / (deviation[kept] ** 2 + ALWAYS**2)
    return sensed


def _triangulated(
    follower: CornerFollower, points: Doubles, seen: Sequence[tuple[Doubles, NDArray[np.bool_], Way]], centre: float
) -> tuple[Doubles, Doubles, NDArray[np.bool_]]:
    """Logarithm of the factor on the depth of each point [N], its precision by motion, and where all images agree.

    Gauss-Newton with the network as prior; Cauchy weights.
    """
    log = np.full(len(points), centre)
    precision, agree = np.zeros(len(points)), np.zeros(len(points), bool)
    for _ in range(8):
        precision, gradient, agree = np.zeros_like(log), np.zeros_like(log), np.zeros_like(agree)
        disagree = np.zeros_like(agree)
        for found, kept, way in seen:
            turned = (points * np.exp(log)[:, None]) @ way.past_from_now.rotation.T
            there = turned + way.past_from_now.translation
            offset, slope = follower.offsets(there, found, 0.1 * follower.measure)
            by_depth = (slope @ turned[:, :, None])[..., 0]
            squared = (offset**2).sum(axis=1) / PIXEL**2
            weight = kept / (1.0 + squared / AGREES) / PIXEL**2
            precision += weight * (by_depth**2).sum(axis=1)
            gradient += weight * (by_depth * offset).sum(axis=1)
            agree |= kept
            disagree |= kept & (squared > AGREES)
        agree &= ~disagree
        step = (gradient - (log - centre) / NETWORK**2) / (precision + 1.0 / NETWORK**2)
        log = log + np.clip(step, -0.3, 0.3)
    return log, precision, agree
