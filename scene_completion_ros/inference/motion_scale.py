"""The scale of what a camera sees, of how far its robot moved: a network knows shapes better than metres.

Corners of an image are found again in images of some metres before, see `followed_corners`. With the depths that the
network gives them, they say how the camera moved, up to the factor that is wanted: the scale at which they agree with
the way by odometry. A filter over seconds follows (Kalman 1960).
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.followed_corners import CornerFollower, Doubles, PosedImage, Way
from scene_completion_ros.inference.motion_depth import BASELINES_M, depths_of_corners

_STREET_VOXEL_M = 0.2
# Lengths are those of a street; rooms, whose voxels are smaller, bring their own measure.
FARTHEST_M = 15.0  # depth of corners: of farther ones the way of some metres says little
BASELINES_OF_SCALE_M = ((0.4, 1.5, 6.0),)  # way between two images: at least, wished for, at most
KEPT, KEPT_APART_M = 40, 0.25  # earlier images, and the way between them
CORNERS, FEWEST, APART_PX = 240, 25, 6  # at half the size of the image, as all pixels here
MOST_TURN = math.radians(20.0)  # between two images
FASTEST_M_S, FASTEST_TURN = 70.0, math.radians(250.0)  # beyond it odometry jumped
# Of the filter, of the logarithm of the factor: before the first measurement; of one measurement; of what changes with
# the street along a way; and what no measurement tells, since odometry is off as well.
PRIOR, MEASURED, CHANGES, CHANGES_OVER_M, ALWAYS = 0.5, 0.05, 0.05, 50.0, 0.03
ODOMETRY_M = 0.03  # standard deviation of a way
ALIKE_OVER_M = 4.0  # measurements along this way share their errors
SURE, AGREEING = 0.15, 3  # standard deviation up to which the factor is given; measurements that agree before that
GATE, MOST_OUTSIDE = 3.0, 5  # measurements beyond so many standard deviations; so many of them are a new street
FORGOTTEN_AFTER_S = 5.0  # without an image


def measure_of(grid: VoxelGrid) -> float:
    """Lengths of a world with such voxels over those of a street: rooms have smaller ones."""
    return min(1.0, grid.voxel_size / _STREET_VOXEL_M)


@dataclass(frozen=True)
class Scale:
    """By what all depths of an image are to be multiplied, as motion has it.

    Attributes:
        factor: The factor; 1 where it is not known.
        deviation: Standard deviation of its logarithm; infinite where nothing is known.
        corners: Corners that the last measurement found again.
        baseline: Way between the images of the last measurement, metres.
        why: Why the last image gave no measurement; empty where it gave one.
    """

    factor: float = 1.0
    deviation: float = math.inf
    corners: int = 0
    baseline: float = 0.0
    why: str = "no image yet"

    def described(self) -> str:
        """All of it, for people."""
        known = f"{self.factor:.3f} ± {self.deviation:.3f}" if math.isfinite(self.deviation) else "unknown"
        last = self.why or f"{self.corners} corners over {self.baseline:.2f} m"
        return f"{known}; last image: {last}"


class MotionScale:
    """Measures the scale of the images of one camera, one after the other; belongs to one thread.

    Args:
        camera: The canonical camera, without distortion.
        covered: Pixels of its image that show something, bool [H, W].
        measure: Lengths here over those of a street.

    Attributes:
        scale: What is known after the last image.
    """

    def __init__(self, camera: Camera, covered: NDArray[np.bool_] | None = None, measure: float = 1.0) -> None:
        self._follower = CornerFollower(camera, covered, measure)
        self._measure = measure
        self.forget()

    def forget(self, why: str = "no image yet") -> None:
        """Nothing of the images so far counts any more."""
        self._past: deque[PosedImage] = deque(maxlen=KEPT)
        self._last: PosedImage | None = None
        self._log_factor, self._variance, self._way, self._outside, self._agreeing = 0.0, PRIOR**2, 0.0, 0, 0
        self.scale = Scale(why=why)

    def add(
        self, image_rgb: NDArray[np.uint8], depth: NDArray[np.float32], pose: RigidTransform, stamp_ns: int
    ) -> Scale:
        """The scale after one more image.

        Args:
            image_rgb: The canonical image, uint8 [H, W, 3].
            depth: What the network says of it by itself, z-depth [h, w], metres; any size.
            pose: Of the camera's optical frame in the odometry frame.
            stamp_ns: Stamp of the image.
        """
        now = self._follower.posed(image_rgb, pose, stamp_ns)
        last = self._last
        jump = "" if last is None else odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns)
        if jump:
            self.forget()
        step = 0.0 if self._last is None else _length(self._last.pose.inverse() @ pose)
        self._way += step
        self._variance += CHANGES**2 * step / (CHANGES_OVER_M * self._measure)
        corners, baseline, why = 0, 0.0, jump or "no earlier image at a distance that fits"
        for past in self._chosen(pose, BASELINES_OF_SCALE_M):
            corners, way = self._followed(now, past, depth)
            baseline = _length(past.pose.inverse() @ pose)
            why = f"only {corners} corners were found again" if way is None else way.refusal()
            if way is not None and not why:
                why = self._filter(way.log_factor, baseline)
        if not self._past or _length(self._past[-1].pose.inverse() @ pose) > KEPT_APART_M * self._measure:
            self._past.append(now)
        self._last = now
        deviation = math.sqrt(self._variance + ALWAYS**2)
        known = deviation <= SURE and self._agreeing >= AGREEING
        factor, deviation = (math.exp(self._log_factor), deviation) if known else (1.0, math.inf)
        self.scale = Scale(factor, deviation, corners, baseline, why)
        return self.scale

    def depths(
        self, image_rgb: NDArray[np.uint8], depth: NDArray[np.float32], pose: RigidTransform, stamp_ns: int
    ) -> NDArray[np.float32] | None:
        """Depths of corners of an image that is not added yet, by their motion since earlier ones.

        They are as `Evidence.sensed`; None where there is no earlier image to follow them to. Arguments: as of `add`.
        """
        last = self._last
        if last is None or odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns):
            return None
        now = self._follower.posed(image_rgb, pose, stamp_ns)
        pasts = self._chosen(pose, BASELINES_M)
        inverse = self._follower.inverse_depth(depth) * np.float32(math.exp(-self._log_factor))
        return depths_of_corners(self._follower, now, pasts, inverse)

    def _chosen(self, pose: RigidTransform, ways: Iterable[tuple[float, float, float]]) -> list[PosedImage]:
        """Earlier images that look the same way, for each way (least, wished for, most; metres) that with the best."""
        steps = [(past, past.pose.inverse() @ pose) for past in self._past]
        apart = [(past, _length(step) / self._measure) for past, step in steps if _angle(step.rotation) < MOST_TURN]
        chosen: list[PosedImage] = []
        for least, wished, most in ways:
            fit = [one for one in apart if least <= one[1] <= most]
            if fit:
                best = min(fit, key=lambda one: abs(one[1] - wished))[0]
                chosen += [] if any(best is one for one in chosen) else [best]
        return chosen

    def _followed(self, now: PosedImage, past: PosedImage, depth: NDArray[np.float32]) -> tuple[int, Way | None]:
        """How many corners were found again in an earlier image, and how the camera came from there by them."""
        follower, inverse = self._follower, self._follower.inverse_depth(depth)
        corners = follower.corners(now.grey, inverse, FARTHEST_M, CORNERS, APART_PX)
        scaled = inverse * np.float32(math.exp(-self._log_factor))
        found, kept = follower.follow(now, past, scaled, corners)
        if np.count_nonzero(kept) < FEWEST:
            return int(np.count_nonzero(kept)), None
        points = follower.points(corners[kept], inverse)
        return len(points), follower.way(points, found[kept], past.pose.inverse() @ now.pose)

    def _filter(self, log_factor: float, baseline: float) -> str:
        """One more measurement, over a way of `baseline` metres; why it does not count, or nothing."""
        alike = ALIKE_OVER_M * self._measure / max(self._way, 0.01 * self._measure)
        own = MEASURED**2 + (ODOMETRY_M * self._measure / baseline) ** 2
        innovation = log_factor - self._log_factor
        if abs(innovation) > GATE * math.sqrt(self._variance + own):
            self._outside += 1
            if self._outside < MOST_OUTSIDE:
                return f"a factor of {math.exp(log_factor):.2f} contradicts those before"
            self._log_factor, self._variance, innovation, self._agreeing = log_factor, PRIOR**2, 0.0, 0
        self._outside, self._way, self._agreeing = 0, 0.0, self._agreeing + 1
        gain = self._variance / (self._variance + own * max(1.0, alike))
        self._log_factor += gain * innovation
        self._variance *= 1.0 - gain
        return ""


def odometry_jump(last: RigidTransform, last_ns: int, pose: RigidTransform, stamp_ns: int) -> str:
    """What is wrong with the way between two poses of a camera at two stamps; empty where nothing is."""
    seconds = 1e-9 * (stamp_ns - last_ns)
    if not 0.0 < seconds < FORGOTTEN_AFTER_S:
        return f"{seconds:.1f} s between two images"
    step = last.inverse() @ pose
    length, angle = _length(step), _angle(step.rotation)
    if length > FASTEST_M_S * seconds or angle > FASTEST_TURN * seconds:
        return f"odometry jumped by {length:.1f} m and {math.degrees(angle):.0f}° in {seconds:.2f} s"
    return ""


def _length(step: RigidTransform) -> float:
    return float(np.linalg.norm(step.translation))


def _angle(rotation: Doubles) -> float:
    return float(np.linalg.norm(cv2.Rodrigues(rotation)[0]))
