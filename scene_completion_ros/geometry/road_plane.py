"""The plane of the road (or floor) ahead of a camera: how high and how askew the camera stands above it.

Cameras and roads are never level with each other: roads are crowned and banked, vehicles pitch. A plane is a quantity
with a covariance, so that what is stated of a mounting, what motion shows and what is usual can be joined.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from scene_completion_ros.arrays import Doubles, Reals
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles

# Standard deviations of what is stated of a mounting: of roll and pitch, radians, and of the height, a share. Vehicles
# are loaded, roads are crowned and banked: on KITTI's, a calibration in a hall is off by up to 2.6 and 2 degrees, and
# the more it is trusted for depth, the worse that is (04, second half of 0005).
STATED = math.radians(3.0), math.radians(3.0), 0.05
LEAST_POINTS, FIT_STEPS, ROUGH_M = 60, 20, 0.03  # of a fit; by how much the ground is off a plane, metres
MOST_ROLL_DEG = 45.0  # beyond it an image shows the road on its side


@dataclass(frozen=True, eq=False)
class RoadPlane:
    """A plane below a camera, and how well it is known.

    Attributes:
        roll: Of the camera above the plane, radians; positive where its right side is lower.
        pitch: Of the camera, radians; positive where it looks down.
        height: Of the camera above the plane, metres, along the plane's normal.
        covariance: Of roll, pitch and the logarithm of the height, float64 [3, 3].
    """

    roll: float
    pitch: float
    height: float
    covariance: Doubles = field(default_factory=lambda: np.zeros((3, 3)))

    @classmethod
    def of_mounting(
        cls, upright_from_camera: RigidTransform, deviations: tuple[float, float, float] = STATED
    ) -> "RoadPlane":
        """The plane z = 0 of an upright frame.

        Args:
            upright_from_camera: Pose of the camera's optical frame in a frame whose z axis points up.
            deviations: Standard deviations of roll and pitch, radians, and of the logarithm of the height.
        """
        below = cls.below(-upright_from_camera.rotation[2], float(upright_from_camera.translation[2]))
        return replace(below, covariance=np.diag(np.square(deviations)))

    @classmethod
    def below(cls, down: Doubles, height: float) -> "RoadPlane":
        """The plane of a `RoadPlane.down` [3] and a height, metres."""
        pitch = math.asin(min(max(float(down[2]), -1.0), 1.0))
        return cls(math.atan2(down[0], down[1]), pitch, max(height, 1e-3))

    @property
    def state(self) -> Doubles:
        """Roll and pitch, radians, and the logarithm of the height, float64 [3]."""
        return np.array([self.roll, self.pitch, math.log(self.height)])

    @property
    def deviations(self) -> Doubles:
        """Standard deviations of `state`, float64 [3]."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def down(self) -> Doubles:
        """Unit normal of the plane in the optical frame, float64 [3]: for its points X, down · X is the height."""
        return normal(self.roll, self.pitch)

    @property
    def upright_from_camera(self) -> RigidTransform:
        """Pose of the camera's optical frame in a frame upright on the plane below it, x where the camera looks."""
        turn = rotation_of_angles(self.roll, self.pitch, 0.0)
        return RigidTransform(turn, np.array([0.0, 0.0, self.height])) @ OPTICAL_FROM_FORWARD.inverse()

    def moved(self, now_from_then: RigidTransform) -> "RoadPlane":
        """The same plane below a camera that moved; `now_from_then`: its former pose in its optical frame of now."""
        down = now_from_then.rotation @ self.down
        height = self.height + float(down @ now_from_then.translation)
        return replace(RoadPlane.below(down, height), covariance=self.covariance)

    def widened(self, variances: Doubles) -> "RoadPlane":
        """The plane with more variance [3] of its `state`."""
        return replace(self, covariance=self.covariance + np.diag(variances))

    def joined(self, other: "RoadPlane") -> "RoadPlane":
        """The most probable plane of two independent ones: product of normal distributions."""
        one, two = np.linalg.inv(self.covariance), np.linalg.inv(other.covariance)
        covariance = np.linalg.inv(one + two)
        return plane_of(covariance @ (one @ self.state + two @ other.state), covariance)


def plane_of(state: Doubles, covariance: Doubles) -> RoadPlane:
    """The plane of a `RoadPlane.state` [3] with its covariance [3, 3]."""
    roll, pitch, log_height = state.tolist()
    return RoadPlane(roll, pitch, math.exp(log_height), covariance)


def normal(roll: float, pitch: float) -> Doubles:
    """Unit normal [3] of a plane below a camera, see `RoadPlane.down`."""
    level = math.cos(pitch)
    return np.array([math.sin(roll) * level, math.cos(roll) * level, math.sin(pitch)])


def normal_slopes(roll: float, pitch: float) -> Doubles:
    """Derivatives [2, 3] of `normal` by roll and by pitch."""
    sin_roll, cos_roll, sin_pitch, cos_pitch = math.sin(roll), math.cos(roll), math.sin(pitch), math.cos(pitch)
    by_roll = cos_roll * cos_pitch, -sin_roll * cos_pitch, 0.0
    return np.array([by_roll, (-sin_roll * sin_pitch, -cos_roll * sin_pitch, cos_pitch)])


def fitted_plane(points: Reals) -> RoadPlane | None:
    """The plane of most points [N, 3], optical frame, metres; None where there are too few, or it lies above.

    Of those that stand on the road each counts less than one of the road (soft L1 by reweighted least squares).
    """
    x, y, z = np.asarray(points, np.float64).T
    if len(x) < LEAST_POINTS:
        return None
    terms = np.stack([x, z, np.ones_like(x)], axis=-1)
    found, weight = np.array([0.0, 0.0, np.median(y)]), np.ones_like(x)
    for _ in range(FIT_STEPS):
        weight = 1.0 / np.sqrt(1.0 + ((y - terms @ found) / ROUGH_M) ** 2)
        weighted = terms * weight[:, None]
        found = np.linalg.lstsq(weighted.T @ terms, weighted.T @ y, rcond=None)[0]
    aside, ahead, below = found.tolist()  # y = aside x + ahead z + below
    length = math.sqrt(aside**2 + ahead**2 + 1.0)
    return RoadPlane.below(np.array([-aside, 1.0, -ahead]) / length, below / length) if below > 0.0 else None
