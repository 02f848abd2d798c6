"""The scale of what a camera sees, of how far its robot moved: a network knows shapes better than metres.

Corners of an image are found again in images of some metres before, as far as odometry says where to look. With the
depths that the network gives them, they say how the camera moved, up to the factor that is wanted: the scale at which
they agree with the way by odometry. Rotation and direction of that way are refined with it, since a tenth of a degree
matters. Depths of single corners are off by much more than the scale of all, and what moves by itself by more yet: both
are in the statistics (a two-view adjustment with a prior on each depth, and a Student-t distribution; Lange et al.
1989). A filter over seconds follows (Kalman 1960).
"""

import math
from collections import deque
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

Doubles = NDArray[np.float64]

_STREET_VOXEL_M = 0.2
# Lengths are those of a street; rooms, whose voxels are smaller, bring their own measure.
NEAREST_M, FARTHEST_M = 1.5, 20.0  # depths of corners: of farther ones the way of some metres says little
BASELINE_M = 1.5  # way between two images that is wished for
LEAST_BASELINE_M, MOST_BASELINE_M = 0.4, 6.0
KEPT, KEPT_APART_M = 24, 0.25  # earlier images, and the way between them
CORNERS, FEWEST, APART_PX = 240, 25, 6  # at half the size of the image, as all pixels here
AWAY_AND_BACK_PX = 0.4  # a corner that is followed away and back again ends where it began
# Standard deviations: of a place in an image, pixels; of the logarithm of one depth; of rotation and direction between
# two poses of odometry, radians.
PIXEL, DEPTH, ROTATION, DIRECTION = 0.3, 0.1, math.radians(0.15), math.radians(2.0)
FREEDOM = 2.0  # degrees of freedom of the Student-t distribution
AGREES, LEAST_AGREEING = 9.0, 0.5  # squared distance in standard deviations; least share of corners below it
# What odometry cannot be off by, unless it says something else than how this camera moved.
MOST_TURNED, MOST_ASIDE, MOST_TURN = math.radians(1.0), math.radians(8.0), math.radians(20.0)
MOST_FACTOR = 1.8  # nor are networks off by as much
FASTEST_M_S, FASTEST_TURN = 70.0, math.radians(250.0)  # beyond it odometry jumped
# Of the filter, of the logarithm of the factor: before the first measurement; of one measurement; of what changes with
# the street along a way; and what no measurement tells, since odometry is off as well.
PRIOR, MEASURED, CHANGES, CHANGES_OVER_M, ALWAYS = 0.5, 0.05, 0.05, 50.0, 0.03
ODOMETRY_M = 0.03  # standard deviation of a way
ALIKE_OVER_M = 2.5  # measurements along this way share their errors
SURE = 0.15  # standard deviation up to which the factor is given
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


@dataclass(frozen=True, eq=False)
class Travel:
    """How a camera moved, as its image has it.

    Attributes:
        step: Way since the last image, metres.
        ahead: Unit vector [3] of the way since an earlier image, in the optical frame halfway; None where not measured.
        turned: Angle between these two images, radians.
    """

    step: float
    ahead: Doubles | None = None
    turned: float = 0.0


@dataclass(frozen=True, eq=False)
class _Past:
    grey: NDArray[np.uint8]
    pose: RigidTransform
    stamp_ns: int


@dataclass(frozen=True)
class _Agreement:
    """How two images, their depths and a way agree: logarithm of the factor, and what had to be changed for it."""

    log_factor: float
    share: float  # of the corners that agree
    turned: float  # radians
    aside: float
    travel: Travel  # what it is with these changes


class MotionScale:
    """Measures the scale of the images of one camera, one after the other; belongs to one thread.

    Args:
        camera: The canonical camera, without distortion.
        covered: Pixels of its image that show something, bool [H, W].
        measure: Lengths here over those of a street.

    Attributes:
        scale: What is known after the last image.
        travel: How the camera came to the last image; None where the way to it is not known.
    """

    def __init__(self, camera: Camera, covered: NDArray[np.bool_] | None = None, measure: float = 1.0) -> None:
        half = camera.resized(camera.width // 2, camera.height // 2)
        self._size, self._measure = (half.width, half.height), measure
        whole = np.ones((half.height, half.width), np.uint8)
        if covered is not None:
            whole = np.asarray(
                cv2.resize(covered.astype(np.uint8), self._size, interpolation=cv2.INTER_NEAREST), np.uint8
            )
        self._covered = whole
        self._matrix = np.array([[half.fx, 0.0, half.cx], [0.0, half.fy, half.cy], [0.0, 0.0, 1.0]])
        self._rays = half.unproject(half.pixel_centres()).astype(np.float32)  # [H / 2, W / 2, 3], where depth is 1
        self.forget()

    def forget(self, why: str = "no image yet") -> None:
        """Nothing of the images so far counts any more."""
        self._past: deque[_Past] = deque(maxlen=KEPT)
        self._last: _Past | None = None
        self._log_factor, self._variance, self._way, self._outside = 0.0, PRIOR**2, 0.0, 0
        self.scale = Scale(why=why)
        self.travel: Travel | None = None

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
        grey = cv2.resize(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), self._size, interpolation=cv2.INTER_AREA)
        now = _Past(np.asarray(grey, np.uint8), pose, stamp_ns)
        last = self._last
        jump = "" if last is None else odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns)
        if jump:
            self.forget()
        step = 0.0 if self._last is None else _length(self._last.pose.inverse() @ pose)
        self.travel = None if self._last is None else Travel(step)
        self._way += step
        self._variance += CHANGES**2 * step / (CHANGES_OVER_M * self._measure)
        corners, baseline, why = 0, 0.0, jump or "no earlier image at a distance that fits"
        past = self._chosen(pose)
        if past is not None:
            way = past.pose.inverse() @ pose
            points, pixels = self._follow(now, past, depth)
            corners, baseline = len(points), _length(way)
            agreement = _agreement(points, pixels, self._matrix, way) if corners >= FEWEST else None
            why = _refusal(corners, agreement)
            if agreement is not None and not why:
                why = self._filter(agreement.log_factor, baseline)
                self.travel = replace(agreement.travel, step=step)
        if not self._past or _length(self._past[-1].pose.inverse() @ pose) > KEPT_APART_M * self._measure:
            self._past.append(now)
        self._last = now
        deviation = math.sqrt(self._variance + ALWAYS**2)
        known = deviation <= SURE
        factor, deviation = (math.exp(self._log_factor), deviation) if known else (1.0, math.inf)
        self.scale = Scale(factor, deviation, corners, baseline, why)
        return self.scale

    def _chosen(self, pose: RigidTransform) -> _Past | None:
        """The earlier image that looks the same way from about the wished distance; None where there is none."""
        steps = [(past.pose.inverse() @ pose, past) for past in self._past]
        fit = [(_length(step) / self._measure, past) for step, past in steps if _angle(step.rotation) < MOST_TURN]
        fit = [(length, past) for length, past in fit if LEAST_BASELINE_M <= length <= MOST_BASELINE_M]
        return min(fit, key=lambda one: abs(one[0] - BASELINE_M))[1] if fit else None

    def _follow(self, now: _Past, past: _Past, depth: NDArray[np.float32]) -> tuple[Doubles, Doubles]:
        """Corners that are found again in an earlier image: points [N, 3] by the network's depths, and where [N, 2].

        The earlier image is first drawn as it would look from here, were depth and odometry right: what is left to
        follow are some pixels, and bodies are as large in both.
        """
        inverse = cv2.resize(1.0 / depth, self._size, interpolation=cv2.INTER_LINEAR)
        near, far = NEAREST_M * self._measure, FARTHEST_M * self._measure
        mask = ((inverse > 1.0 / far) & (inverse < 1.0 / near)).astype(np.uint8) & self._covered
        corners = cv2.goodFeaturesToTrack(now.grey, CORNERS, 0.003, APART_PX, mask=mask)
        if corners is None:
            return np.zeros((0, 3)), np.zeros((0, 2))
        here = np.asarray(corners, np.float32)
        past_from_now = (past.pose.inverse() @ now.pose).matrix.astype(np.float32)
        nearer = (inverse * math.exp(-self._log_factor))[..., None]
        there = self._rays @ past_from_now[:3, :3].T + past_from_now[:3, 3] * nearer
        z = np.maximum(there[..., 2], 1e-3)
        u, v = (there[..., axis] / z * self._matrix[axis, axis] + np.float32(self._matrix[axis, 2]) for axis in (0, 1))
        u, v = u.astype(np.float32), v.astype(np.float32)
        drawn = cv2.remap(past.grey, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        as_from_here = np.asarray(drawn, np.uint8)
        away, tracked = _followed(now.grey, as_from_here, here)
        back, returned = _followed(as_from_here, now.grey, away)
        places = [cv2.remap(part, away[:, :, 0], away[:, :, 1], cv2.INTER_LINEAR)[:, 0] for part in (u, v)]
        found = np.stack(places, axis=1).astype(np.float64)
        kept = tracked & returned
        kept &= np.linalg.norm((back - here)[:, 0], axis=1) < AWAY_AND_BACK_PX
        kept &= (found > 1.0).all(axis=1) & (found < np.array(self._size) - 2.0).all(axis=1)
        column, row = np.rint(here[kept, 0]).astype(np.int64).T
        return (self._rays[row, column] / inverse[row, column, None]).astype(np.float64), found[kept]

    def _filter(self, log_factor: float, baseline: float) -> str:
        """One more measurement, over a way of `baseline` metres; why it does not count, or nothing."""
        alike = ALIKE_OVER_M * self._measure / max(self._way, 0.01 * self._measure)
        own = MEASURED**2 + (ODOMETRY_M * self._measure / baseline) ** 2
        innovation = log_factor - self._log_factor
        if abs(innovation) > GATE * math.sqrt(self._variance + own):
            self._outside += 1
            if self._outside < MOST_OUTSIDE:
                return f"a factor of {math.exp(log_factor):.2f} contradicts those before"
            self._log_factor, self._variance, innovation = log_factor, PRIOR**2, 0.0
        self._outside, self._way = 0, 0.0
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


def _followed(
    first: NDArray[np.uint8], second: NDArray[np.uint8], pixels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where pixels [N, 1, 2] of one image are in another, and whether they were found there [N] (Bouguet 2000)."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(first, second, pixels, pixels.copy(), winSize=(15, 15), maxLevel=2)
    return np.asarray(found, np.float32), np.asarray(status)[:, 0] == 1


def _refusal(corners: int, agreement: _Agreement | None) -> str:
    if agreement is None:
        return f"only {corners} corners were found again"
    if agreement.share < LEAST_AGREEING:
        return f"only {100.0 * agreement.share:.0f} % of the corners move as odometry says"
    if agreement.turned > MOST_TURNED or agreement.aside > MOST_ASIDE:
        off = f"{math.degrees(agreement.turned):.1f}° and the direction by {math.degrees(agreement.aside):.0f}°"
        return f"the rotation by odometry is off by {off}"
    if abs(agreement.log_factor) > math.log(MOST_FACTOR):
        return f"a factor of {math.exp(agreement.log_factor):.2f} is none of a network: is odometry in metres?"
    return ""


def _agreement(points: Doubles, pixels: Doubles, matrix: Doubles, past_from_now: RigidTransform) -> _Agreement:
    """At which scale points [N, 3] of a camera lie in an earlier image where they were found [N, 2].

    Gauss-Newton over the logarithm of the scale, rotation, and direction of the way. The length of the way stays.
    """
    way = past_from_now.translation
    length = float(np.linalg.norm(way))
    across = np.linalg.svd(way[None])[2][1:] * length  # [2, 3], by a radian of direction
    precision = np.array([1.0 / math.log(MOST_FACTOR) ** 2, *[1.0 / ROTATION**2] * 3, *[1.0 / DIRECTION**2] * 2])
    turned, focal = points @ past_from_now.rotation.T, np.diag(matrix)[:2]

    def distances(x: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Squared distances [N], offsets [N, 2], slopes [N, 2, 6] and inverse covariances [N, 2, 2] at parameters."""
        moved = math.exp(x[0]) * turned @ cv2.Rodrigues(x[1:4])[0].T
        there = moved + way + x[4:] @ across
        z = np.maximum(there[:, 2], 0.05 * length)
        offset = pixels - (there[:, :2] / z[:, None] * focal + matrix[:2, 2])
        slope = np.zeros((len(points), 2, 3))
        slope[:, 0, 0], slope[:, 1, 1] = focal[0] / z, focal[1] / z
        slope[:, :, 2] = -focal * there[:, :2] / z[:, None] ** 2
        by_scale = (slope @ moved[:, :, None])[..., 0]
        by_turn = -slope @ _crossing(moved)
        slopes = np.concatenate([by_scale[:, :, None], by_turn, slope @ across.T], axis=2)
        # The inverse of PIXEL² I + DEPTH² g gᵀ (Sherman and Morrison).
        shrunk = DEPTH**2 / (PIXEL**2 + DEPTH**2 * (by_scale**2).sum(axis=1))
        inverse = (np.eye(2) - shrunk[:, None, None] * by_scale[:, :, None] * by_scale[:, None, :]) / PIXEL**2
        return (offset * (inverse @ offset[:, :, None])[..., 0]).sum(axis=1), offset, slopes, inverse

    start = [np.array([log, 0.0, 0.0, 0.0, 0.0, 0.0]) for log in np.linspace(-0.5, 0.5, 6)]
    x = min(start, key=lambda one: float(np.log1p(distances(one)[0] / FREEDOM).sum()))
    for _ in range(8):
        squared, offset, slopes, inverse = distances(x)
        weighed = (FREEDOM + 2.0) / (FREEDOM + squared)
        by = weighed[:, None, None] * slopes.transpose(0, 2, 1) @ inverse  # [N, 6, 2]
        normal = (by @ slopes).sum(axis=0) + np.diag(precision)
        step = np.linalg.solve(normal, (by @ offset[:, :, None])[..., 0].sum(axis=0) - precision * x)
        x = x + step
        if abs(step[0]) < 1e-3:
            break
    share = float((distances(x)[0] < AGREES).mean())
    turn = cv2.Rodrigues(cv2.Rodrigues(x[1:4])[0] @ past_from_now.rotation)[0]
    ahead = cv2.Rodrigues(-0.5 * turn)[0] @ (way + x[4:] @ across)
    travel = Travel(length, ahead / np.linalg.norm(ahead), float(np.linalg.norm(turn)))
    return _Agreement(float(x[0]), share, float(np.linalg.norm(x[1:4])), float(np.linalg.norm(x[4:])), travel)


def _crossing(vectors: Doubles) -> Doubles:
    """Matrices [N, 3, 3] of the cross product with vectors [N, 3] on the left."""
    x, y, z = vectors.T
    none = np.zeros_like(x)
    return np.stack([none, -z, y, z, none, -x, -y, x, none], axis=1).reshape(-1, 3, 3)


def _length(step: RigidTransform) -> float:
    return float(np.linalg.norm(step.translation))


def _angle(rotation: Doubles) -> float:
    return float(np.linalg.norm(cv2.Rodrigues(rotation)[0]))
