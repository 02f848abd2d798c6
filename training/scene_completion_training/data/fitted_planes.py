"""Planes fitted to points of the ground, and how a camera stands above them."""

import numpy as np
from scipy.optimize import least_squares

from scene_completion_ros.geometry import RigidTransform
from scene_completion_training.arrays import Doubles, Reals

LEAST_POINTS = 60
_ROUGH_M = 0.03  # by which the ground is off a plane; what stands on it is farther away, and hardly counts


def camera_above(up: Doubles, height: float) -> RigidTransform:
    """Pose of a camera in a frame that begins on the ground below it, z up, and looks where the camera looks.

    `up`: the unit vector [3] up from the ground in the optical frame; `height`: of the camera above it, metres.
    """
    forward = np.array([0.0, 0.0, 1.0]) - up[2] * up
    forward /= np.linalg.norm(forward)
    return RigidTransform(np.stack([forward, np.cross(up, forward), up]), np.array([0.0, 0.0, height]))


def fitted_mounting(points: Reals) -> RigidTransform | None:
    """Pose of a camera above the plane of most points [N, 3], optical frame, metres; None where there are too few."""
    x, y, z = points.T
    if len(x) < LEAST_POINTS:
        return None
    terms = np.stack([x, z, np.ones_like(x)], axis=-1)
    start = np.array([0.0, 0.0, np.median(y)])
    aside, ahead, below = least_squares(lambda c: terms @ c - y, start, loss="soft_l1", f_scale=_ROUGH_M).x
    length = np.sqrt(aside**2 + ahead**2 + 1.0)
    return camera_above(np.array([aside, -1.0, ahead]) / length, below / length)


def roll_and_pitch(mounting: RigidTransform) -> tuple[float, float]:
    """Roll to the right and pitch down, radians, of a camera by its pose in a frame with z up."""
    right, down, ahead = mounting.rotation[2]
    return float(np.arctan2(-right, -down)), float(-np.arcsin(np.clip(ahead, -1.0, 1.0)))
