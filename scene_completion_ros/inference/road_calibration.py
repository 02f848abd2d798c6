"""How a camera stands above the ground, measured while it drives: pitch, roll and height.

Nothing here follows the mounting that somebody states, so that it can be compared with it. Depths that pixels say
before any evidence, scaled by motion, say where the plane of the ground lies. And a vehicle moves along its ground, in
a direction that the image has itself, whatever odometry and extrinsics say of it. The ground that a decoder says is no
such measurement: it lies where the stated mounting puts it. A filter over the way follows (Kalman 1960).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.inference.followed_corners import Doubles
from scene_completion_ros.inference.motion_scale import Scale, Travel

# Lengths are those of a street; rooms bring their own measure.
NEAREST_M, FARTHEST_M = 2.5, 15.0  # depths at which the ground is looked at
LEAST_GROUND, FEWEST = 0.5, 150  # least probability of a pixel of the ground, and number of them; each fourth is taken
SPREAD = 0.05  # share by which depths of the ground are off the plane
MOST_TURNED = math.radians(5.0)  # beyond it a vehicle leans
# Between plane and direction: more is a grade that changes ahead, or a camera that does not look along its way.
MOST_BENT = math.radians(1.5)
STEP_M = 0.3  # way between two measurements: what stands sees the same error again
# Standard deviations of one measurement: pitch and roll of the plane, radians, and of its level some metres ahead, a
# share of the height; of the direction, radians. Measurements share their errors along a way.
PITCH, ROLL, LEVEL, DIRECTION = math.radians(0.5), math.radians(0.8), 0.03, math.radians(0.3)
LEVEL_AT_M = 6.0  # depth at which its level is known best, about
ALIKE_OVER_M = 5.0
# Of what no number of measurements tells, and what changes with load, tyres and street along a way.
ALWAYS = (math.radians(0.3), math.radians(1.0), 0.02)
CHANGES, CHANGES_OVER_M = (math.radians(0.2), math.radians(0.4), 0.02), 50.0
PRIOR = (math.radians(20.0), math.radians(10.0), 1.0)  # before the first measurement
# Measurements beyond a squared distance in standard deviations, of their four numbers; so many: the camera was moved.
GATE, MOST_OUTSIDE = 16.0, 8
# Standard deviations up to which a mounting is told to a student.
SURE_ANGLE, SURE_HEIGHT = math.radians(0.5), 0.06
# What is told is exchanged where the measured one is off by more.
MOVED_ANGLE, MOVED_M = math.radians(0.3), 0.03
# A stated mounting that is off by more is wrong, if that is beyond two standard deviations.
WRONG_ANGLE, WRONG_M, SIGNIFICANT = math.radians(1.0), 0.05, 2.0


@dataclass(frozen=True)
class Mounting:
    """How a camera stands above the ground, as measured on the way.

    Attributes:
        pitch: Angle by which it looks down, radians.
        roll: Angle by which its right side is lower, radians.
        height: Above the ground, metres.
        deviations: Standard deviations of the three; infinite where nothing is known.
        images: Images that counted.
        why: Why the last image did not count; empty where it did.
    """

    pitch: float = 0.0
    roll: float = 0.0
    height: float = 0.0
    deviations: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    images: int = 0
    why: str = "no image yet"

    @classmethod
    def of(cls, upright_from_camera: RigidTransform) -> "Mounting":
        """That of a pose of the optical frame in a frame whose z axis points up and begins on the ground, exactly."""
        x, y, z = -upright_from_camera.rotation[2]
        pitch, roll = math.asin(np.clip(z, -1.0, 1.0)), math.atan2(x, y)
        return cls(pitch, roll, float(upright_from_camera.translation[2]), (0.0, 0.0, 0.0), 0, "")

    @property
    def sure(self) -> bool:
        """Whether a student may be told."""
        pitch, _, height = self.deviations
        return pitch <= SURE_ANGLE and height <= SURE_HEIGHT * self.height

    @property
    def upright_from_camera(self) -> RigidTransform:
        """Pose of the optical frame in an upright frame on the ground below it, which looks where it looks."""
        (sin_p, cos_p), (sin_r, cos_r) = ((math.sin(angle), math.cos(angle)) for angle in (self.pitch, self.roll))
        pitched = np.array([[cos_p, 0.0, sin_p], [0.0, 1.0, 0.0], [-sin_p, 0.0, cos_p]])
        rolled = np.array([[1.0, 0.0, 0.0], [0.0, cos_r, -sin_r], [0.0, sin_r, cos_r]])
        rotation = pitched @ rolled @ OPTICAL_FROM_FORWARD.rotation.T
        return RigidTransform(rotation, np.array([0.0, 0.0, self.height]))

    def described(self) -> str:
        """All of it, for people."""
        if not math.isfinite(self.deviations[0]):
            return f"unknown; last image: {self.why}"
        (pitch, of_pitch), (roll, of_roll) = (
            (math.degrees(angle), math.degrees(deviation))
            for angle, deviation in zip((self.pitch, self.roll), self.deviations, strict=False)
        )
        return (
            f"pitch {pitch:.2f} ± {of_pitch:.2f}° down, roll {roll:.2f} ± {of_roll:.2f}°, height {self.height:.2f} ± "
            f"{self.deviations[2]:.2f} m, {self.images} images; last image: {self.why or 'counted'}"
        )

    def moved_from(self, other: "Mounting") -> bool:
        """Whether it is another one than a student was told."""
        angles = abs(self.pitch - other.pitch), abs(self.roll - other.roll)
        return max(angles) > MOVED_ANGLE or abs(self.height - other.height) > MOVED_M

    def contradicts(self, stated: RigidTransform) -> str:
        """What is surely wrong with a stated pose of the camera (see `of`), or nothing."""
        if not self.sure:
            return ""
        said = Mounting.of(stated)
        pitch, height = abs(said.pitch - self.pitch), abs(said.height - self.height)
        wrong = []
        if pitch > max(WRONG_ANGLE, SIGNIFICANT * self.deviations[0]):
            now, was, deviation = (math.degrees(angle) for angle in (self.pitch, said.pitch, self.deviations[0]))
            wrong.append(f"looks {now:.1f} ± {deviation:.1f}° down, stated are {was:.1f}°")
        if height > max(WRONG_M, SIGNIFICANT * self.deviations[2]):
            measured = f"{self.height:.2f} ± {self.deviations[2]:.2f} m"
            wrong.append(f"stands {measured} above the ground, stated are {said.height:.2f} m")
        return " and ".join(wrong)


class RoadCalibration:
    """Measures how one camera stands above the ground, one image after the other; belongs to one thread.

    Args:
        camera: The canonical camera, without distortion.
        measure: Lengths here over those of a street.
    """

    def __init__(self, camera: Camera, measure: float = 1.0) -> None:
        half = camera.resized(camera.width // 2, camera.height // 2)
        self._rays, self._measure = half.unproject(half.pixel_centres())[::2, ::2], measure  # [h, w, 3]
        self.forget("no image yet")

    def forget(self, why: str) -> None:
        """Nothing of the images so far counts any more."""
        self._state = np.zeros(3)  # pitch, roll, height
        self._covariance = np.diag(np.square(PRIOR))
        self._way, self._images, self._outside = 0.0, 0, 0
        self.mounting = Mounting(why=why)

    def add(
        self, depth: NDArray[np.float32], ground: NDArray[np.float32], scale: Scale, travel: Travel | None
    ) -> Mounting:
        """How the camera stands, after one more image.

        Args:
            depth: z-depth that pixels say before any evidence, at half the size of the image [H / 2, W / 2], metres.
            ground: Probability that each second of them shows the ground [H / 4, W / 4].
            scale: By what depths are to be multiplied, by motion.
            travel: How the camera came here; None where the way is not known: then nothing before counts.
        """
        if travel is None:
            self.forget(scale.why)
            return self.mounting
        self._way += travel.step
        self._covariance += np.diag(np.square(CHANGES)) * travel.step / (CHANGES_OVER_M * self._measure)
        why = self._measured(depth, ground, scale, travel)
        if self._images:
            variances = np.diag(self._covariance) + np.square([*ALWAYS[:2], 0.0])
            off = math.hypot(ALWAYS[2], scale.deviation if math.isfinite(scale.deviation) else PRIOR[2])
            variances[2] += (off * self._state[2]) ** 2
            pitch, roll, height = self._state.tolist()
            of_pitch, of_roll, of_height = np.sqrt(variances).tolist()
            self.mounting = Mounting(pitch, roll, height, (of_pitch, of_roll, of_height), self._images, why)
        else:
            self.mounting = Mounting(why=why)
        return self.mounting

    def _measured(self, depth: NDArray[np.float32], ground: NDArray[np.float32], scale: Scale, travel: Travel) -> str:
        """Why an image says nothing, or nothing where it counts."""
        if self._way < STEP_M * self._measure:
            return "the camera hardly moved"
        if travel.ahead is None or not math.isfinite(scale.deviation):
            return scale.why or "the scale is not known yet"
        if travel.turned > MOST_TURNED:
            return f"the camera turned by {math.degrees(travel.turned):.0f}°"
        plane = self._plane(scale.factor * depth[::2, ::2].astype(np.float64), ground.astype(np.float64))
        if plane is None:
            return "too little of the image is plane ground"
        down, height = plane
        bent = math.asin(np.clip(down @ travel.ahead, -1.0, 1.0))
        if abs(bent) > MOST_BENT:
            return f"the ground ahead and the direction of the way differ by {math.degrees(abs(bent)):.1f}°"
        return self._filter(np.array([math.asin(down[2]), math.atan2(down[0], down[1]), height]), travel.ahead)

    def _plane(self, depth: Doubles, ground: Doubles) -> tuple[Doubles, float] | None:
        """Downward normal [3] and distance of the plane that pixels of the ground lie in; None where they lie in none.

        Reweighted least squares in inverse depth, where a plane is linear (Cauchy's weights of shares of depth).
        """
        near, far = NEAREST_M * self._measure, FARTHEST_M * self._measure
        shown = (ground > LEAST_GROUND) & (depth > near) & (depth < far)
        points, sure = self._rays[shown] * depth[shown][:, None], ground[shown]
        if len(points) < FEWEST:
            return None
        weight = sure
        for _ in range(10):
            weighed = weight[:, None] * points
            normal = np.linalg.lstsq(weighed.T @ points, weighed.sum(axis=0), rcond=None)[0]
            off = points @ normal - 1.0
            weight = sure / (1.0 + (off / SPREAD) ** 2)
        length = float(np.linalg.norm(normal))
        if normal[1] < 0.5 * length or float(np.mean(np.abs(off) < 2.0 * SPREAD)) < 0.7:
            return None
        return normal / length, 1.0 / length

    def _filter(self, plane: Doubles, ahead: Doubles) -> str:
        """One more measurement: pitch, roll and height of the plane, and the direction; why it does not count."""
        alike = max(1.0, ALIKE_OVER_M * self._measure / self._way)
        # What tilts the plane turns it about where its level is known: height and pitch are off together.
        arm, level = LEVEL_AT_M * self._measure, LEVEL * plane[2]
        noise = np.diag([PITCH**2, ROLL**2, (arm * PITCH) ** 2 + level**2])
        noise[0, 2] = noise[2, 0] = arm * PITCH**2
        pitch, roll, _ = self._state if self._images else plane
        (sin_p, cos_p), (sin_r, cos_r) = ((math.sin(angle), math.cos(angle)) for angle in (pitch, roll))
        down = np.array([sin_r * cos_p, cos_r * cos_p, sin_p])
        slopes = np.eye(4, 3)
        by_pitch = np.array([-sin_r * sin_p, -cos_r * sin_p, cos_p])
        slopes[3] = by_pitch @ ahead, down[1] * ahead[0] - down[0] * ahead[1], 0.0
        # No part of the way leads down into the ground; linear about the state.
        measured = np.append(plane, slopes[3, 0] * pitch + slopes[3, 1] * roll - down @ ahead)
        noise = alike * np.block([[noise, np.zeros((3, 1))], [np.zeros((1, 3)), np.full((1, 1), DIRECTION**2)]])
        innovation = measured - slopes @ self._state
        covariance = slopes @ self._covariance @ slopes.T + noise
        if innovation @ np.linalg.solve(covariance, innovation) > GATE:
            self._outside += 1
            if self._outside < MOST_OUTSIDE:
                return "the ground contradicts those before"
            self._state, self._covariance, self._images = plane, np.diag(np.square(PRIOR)), 0
            return self._filter(plane, ahead)
        gain = np.linalg.solve(covariance, slopes @ self._covariance).T
        self._state = self._state + gain @ innovation
        self._covariance = (np.eye(3) - gain @ slopes) @ self._covariance
        self._way, self._outside, self._images = 0.0, 0, self._images + 1
        return ""
