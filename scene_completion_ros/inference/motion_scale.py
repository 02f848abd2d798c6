"""The scale of predicted depths by how far the robot moved: a network predicts shapes better than metres.

Corners of an image are found again in images of some metres before. By odometry and the depths of a network, the
earlier image is first rendered as seen from here: what is left to follow are some pixels, and bodies are as large in
both. With their depths, corners give the camera's motion up to the wanted factor: the scale at which they agree with
the way by odometry. Rotation and direction of that way are refined with it, since a tenth of a degree matters. Depths
of corners are off by much more than their scale, neighbours alike, and what moves by itself by more yet: all three are
in the statistics (a two-view adjustment with a prior on each depth, wider where corners are crowded or far, and a
Student-t distribution; Lange et al. 1989). A filter over seconds follows (Kalman 1960).

Depth of single corners by motion: what a network is wrong about here and there, not by one factor. A wall that the
network puts a fifth too near moves through the image as one that is far. A corner has a depth by triangulation, once
the camera's motion is known. One that the images do not agree about, or that is far off from the network's depth, moves
by itself or was confused with another.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.plausible_motion import FASTEST_M_S
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.geometry.turned_pictures import follow_corners

NEAREST_M = 1.5  # depth of corners, in streets
# Standard deviations: of a place in an image, pixels; of the logarithm of one depth; of rotation and direction between
# two poses of odometry, radians.
PIXEL, DEPTH, ROTATION, DIRECTION = 0.3, 0.1, math.radians(0.15), math.radians(2.0)
FREEDOM = 2.0  # degrees of freedom of the Student-t distribution
# One wall fills half of an image, with most of its corners, and is one thing that the network is wrong about. So the
# doubt about each corner grows with their number in its part of the image, so many across, and with a depth beyond
# this, metres, where networks err most.
PARTS_ACROSS, NEAR_M = 8, 8.0
AGREES, LEAST_AGREEING = 9.0, 0.5  # squared distance in standard deviations; least share of corners below it
# What odometry cannot be off by, unless it is not of this camera.
MOST_TURNED, MOST_ASIDE = math.radians(1.0), math.radians(8.0)
MOST_FACTOR = 1.8  # nor are networks off by as much


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image as corners are followed in it, grey, and where its camera stood."""

    grey: Bytes
    pose: RigidTransform  # of the optical frame in the odometry frame
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class Way:
    """How a camera came from an earlier place to that of now, by the corners of both images.

    Attributes:
        log_factor: Logarithm of the factor on the depths at which they agree with the length of the way by odometry.
        share: Share of the corners that agree.
        past_from_now: The way, refined.
        turned, aside: By how much its rotation and its direction had to be changed, radians.
    """

    log_factor: float
    share: float
    past_from_now: RigidTransform
    turned: float
    aside: float

    def refusal(self) -> str:
        """Why it cannot be used; empty where it can."""
        if self.share < LEAST_AGREEING:
            return f"only {100.0 * self.share:.0f} % of the corners move as odometry does"
        if self.turned > MOST_TURNED or self.aside > MOST_ASIDE:
            off = f"{math.degrees(self.turned):.1f}° and the direction by {math.degrees(self.aside):.0f}°"
            return f"the rotation by odometry is off by {off}"
        if abs(self.log_factor) > math.log(MOST_FACTOR):
            return f"a factor of {math.exp(self.log_factor):.2f} is none of a network: is odometry in metres?"
        return ""


class CornerFollower:
    """Finds corners in images of one camera, and again in earlier images.

    Args:
        camera: The canonical camera, without distortion.
        covered: Pixels of its image that show something, bool [H, W].
        measure: Lengths here over those of a street.
        shrink: Side of an image over that in which corners are found and followed.
    """

    def __init__(self, camera: Camera, covered: Mask, measure: float, *, shrink: int = 2) -> None:
        half = camera.resized(camera.width // shrink, camera.height // shrink)
        self.size, self.measure = (half.width, half.height), measure
        resized = cv2.resize(covered.astype(np.uint8), self.size, interpolation=cv2.INTER_NEAREST)
        self._covered = np.asarray(resized, np.uint8)
        self.focal, self.centre = np.array([half.fx, half.fy]), np.array([half.cx, half.cy])
        rays = half.unproject(half.pixel_centres()).astype(np.float32)
        self.rays = np.ascontiguousarray(np.moveaxis(rays, -1, 0))  # [3, H / 2, W / 2], where depth is 1

    def posed(self, image_rgb: Bytes, pose: RigidTransform, stamp_ns: int) -> PosedImage:
        """A canonical image, uint8 [H, W, 3], as it is followed."""
        grey = cv2.resize(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), self.size, interpolation=cv2.INTER_AREA)
        return PosedImage(np.asarray(grey, np.uint8), pose, stamp_ns)

    def inverse_depth(self, depth: Floats) -> Floats:
        """One over a depth of any size, at the pixels that corners are found in."""
        return np.asarray(cv2.resize(1.0 / depth, self.size, interpolation=cv2.INTER_LINEAR), np.float32)

    def corners(self, grey: Bytes, inverse: Floats, farthest: float, count: int, apart: int) -> Floats:
        """The strongest corners [N, 1, 2] (u, v) within `NEAREST_M` and `farthest`, metres, so many pixels apart."""
        near, far = NEAREST_M * self.measure, farthest * self.measure
        return self.strongest(grey, (inverse > 1.0 / far) & (inverse < 1.0 / near), count, apart, 0.003)

    def strongest(self, grey: Bytes, where: Mask, count: int, apart: int, quality: float) -> Floats:
        """The strongest corners [N, 1, 2] (u, v) within a mask; `quality`: least share of the strongest one."""
        found = cv2.goodFeaturesToTrack(grey, count, quality, apart, mask=where.astype(np.uint8) & self._covered)
        return np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)

    def apart(self, one: RigidTransform, other: RigidTransform) -> float:
        """Way between two poses, in metres as of a street."""
        return _length(one.inverse() @ other) / self.measure

    def chosen(
        self, past: Iterable[PosedImage], pose: RigidTransform, ways: Iterable[tuple[float, float, float]]
    ) -> list[PosedImage]:
        """Earlier images that look the same way, for each way (least, wished for, most; metres) that with the best."""
        alike = [one for one in past if _angle((one.pose.inverse() @ pose).rotation) < MOST_TURN]
        apart = [(one, self.apart(one.pose, pose)) for one in alike]
        fits = [([one for one in apart if least <= one[1] <= most], wished) for least, wished, most in ways]
        best = [min(fit, key=lambda one: abs(one[1] - wished))[0] for fit, wished in fits if fit]
        return [*dict.fromkeys(best)]

    def points(self, corners: Floats, inverse: Floats) -> Doubles:
        """Corners in space [N, 3] by the depths of the network (optical frame, metres)."""
        column, row = np.rint(corners[:, 0]).astype(np.int64).T
        return np.asarray((self.rays[:, row, column] / inverse[row, column]).T, np.float64)

    def follow(self, now: PosedImage, past: PosedImage, inverse: Floats, corners: Floats) -> tuple[Doubles, Mask]:
        """Where corners of an image are in an earlier one, [N, 2], and which were found there [N].

        `inverse`: inverse depth [H / 2, W / 2] of the image, scaled by what is known.
        """
        if not len(corners):
            return np.zeros((0, 2)), np.zeros(0, bool)
        past_from_now = (past.pose.inverse() @ now.pose).matrix.astype(np.float32)
        x, y, z = (past_from_now[:3, :3] @ self.rays.reshape(3, -1)).reshape(self.rays.shape)
        near = 1.0 / np.maximum(z + past_from_now[2, 3] * inverse, 1e-3)
        focal, centre = self.focal.astype(np.float32), self.centre.astype(np.float32)
        u = (x + past_from_now[0, 3] * inverse) * near * focal[0] + centre[0]
        v = (y + past_from_now[1, 3] * inverse) * near * focal[1] + centre[1]
        drawn = cv2.remap(past.grey, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        as_from_here = np.asarray(drawn, np.uint8)
        away, kept = follow_corners(now.grey, as_from_here, corners, 2)
        places = [cv2.remap(part, away[:, :, 0], away[:, :, 1], cv2.INTER_LINEAR)[:, 0] for part in (u, v)]
        found = np.stack(places, axis=1).astype(np.float64)
        kept &= (found > 1.0).all(axis=1) & (found < np.array(self.size) - 2.0).all(axis=1)
        return found, kept

    def way(self, points: Doubles, pixels: Doubles, past_from_now: RigidTransform) -> Way:
        """How the camera moved, of points [N, 3] in its image and where they were found in an earlier one [N, 2].

        Gauss-Newton over the logarithm of the scale, rotation, and direction. The length of the way stays.
        """
        way = past_from_now.translation
        length = float(np.linalg.norm(way))
        across = np.linalg.svd(way[None])[2][1:] * length  # [2, 3], by a radian of direction
        precision = np.array([1.0 / math.log(MOST_FACTOR) ** 2, *[1.0 / ROTATION**2] * 3, *[1.0 / DIRECTION**2] * 2])
        turned, doubt = points @ past_from_now.rotation.T, self._doubts(points)

        def distances(x: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles]:
            """Squared distances [N] at x; of what they are made: points moved, offsets, their slopes, a share [N].

            The inverse of PIXEL² I + doubt² g gᵀ is (I - share g gᵀ) / PIXEL² (Sherman and Morrison), with g [N, 2] by
            the logarithm of the scale.
            """
            moved = math.exp(x[0]) * turned @ cv2.Rodrigues(x[1:4])[0].T
            offset, slope = self.offsets(moved + way + x[4:] @ across, pixels, 0.05 * length)
            along = (slope @ moved[:, :, None])[..., 0]
            share = doubt**2 / (PIXEL**2 + doubt**2 * (along**2).sum(axis=1))
            squared = ((offset**2).sum(axis=1) - share * (along * offset).sum(axis=1) ** 2) / PIXEL**2
            return squared, moved, offset, slope, share

        start = [np.array([log, 0.0, 0.0, 0.0, 0.0, 0.0]) for log in np.linspace(-0.45, 0.45, 4)]
        x = min(start, key=lambda one: float(np.log1p(distances(one)[0] / FREEDOM).sum()))
        for _ in range(8):
            squared, moved, offset, slope, share = distances(x)
            by_scale = slope @ moved[:, :, None]
            slopes = np.concatenate([by_scale, np.cross(moved[:, None], slope), slope @ across.T], axis=2)  # [N, 2, 6]
            weight = (FREEDOM + 2.0) / (FREEDOM + squared) / PIXEL**2
            by = slopes - (share[:, None, None] * by_scale) @ (by_scale.transpose(0, 2, 1) @ slopes)
            by = (weight[:, None, None] * by).reshape(-1, len(x))
            normal = by.T @ slopes.reshape(-1, len(x)) + np.diag(precision)
            step = np.linalg.solve(normal, by.T @ offset.reshape(-1) - precision * x)
            x = x + step
            if np.abs(step).max() < 3e-4:
                break
        agreeing = distances(x)[0] < AGREES
        refined = RigidTransform(cv2.Rodrigues(x[1:4])[0] @ past_from_now.rotation, way + x[4:] @ across)
        aside = float(np.linalg.norm(x[4:]))
        return Way(float(x[0]), float(agreeing.mean()), refined, float(np.linalg.norm(x[1:4])), aside)

    def offsets(self, points: Doubles, pixels: Doubles, nearest: float) -> tuple[Doubles, Doubles]:
        """Pixels less where points [N, 3] are seen, [N, 2], and slopes [N, 2, 3] of the latter by the points."""
        z = np.maximum(points[:, 2], nearest)
        slope = np.zeros((len(points), 2, 3))
        slope[:, 0, 0], slope[:, 1, 1] = self.focal[0] / z, self.focal[1] / z
        slope[:, :, 2] = -self.focal * points[:, :2] / z[:, None] ** 2
        return pixels - (points[:, :2] / z[:, None] * self.focal + self.centre), slope

    def _doubts(self, points: Doubles) -> Doubles:
        """Standard deviation of the logarithm of each depth [N], as if it were off by itself."""
        seen = points[:, :2] / points[:, 2:] * self.focal + self.centre
        part = np.floor(seen * (PARTS_ACROSS / self.size[0]))
        _, owner, count = np.unique(part, axis=0, return_inverse=True, return_counts=True)
        alike = count[owner.reshape(-1)]
        return np.asarray(DEPTH * alike * np.maximum(1.0, points[:, 2] / (NEAR_M * self.measure)), np.float64)


BASELINES_M = ((0.9, 1.5, 2.25), (2.1, 3.5, 5.25), (4.2, 7.0, 10.5))  # ways to earlier images, see `MotionScale`
SINGLE_FARTHEST_M, SINGLE_NEAR_M = 60.0, 15.0  # depths of corners; and of those that give the camera's motion
SINGLE_CORNERS, SINGLE_FEWEST, SINGLE_APART_PX = 400, 25, 5
# Standard deviations: of a place in an image, pixels; of the logarithm of the network's depth of a corner, once all are
# scaled; of that of a depth by motion, at most, and what is added to it.
SINGLE_PIXEL, NETWORK, MOST_DEVIATION, SINGLE_ALWAYS = 0.4, 0.15, 0.1, 0.02
SINGLE_AGREES = 4.0  # squared distance in standard deviations, in each image
MOST_OFF = 0.25  # logarithm of a depth by motion over that of the network


def _triangulated(
    follower: CornerFollower, points: Doubles, seen: Sequence[tuple[Doubles, Mask, Way]], centre: float
) -> tuple[Doubles, Doubles, Mask]:
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
            squared = (offset**2).sum(axis=1) / SINGLE_PIXEL**2
            weight = kept / (1.0 + squared / SINGLE_AGREES) / SINGLE_PIXEL**2
            precision += weight * (by_depth**2).sum(axis=1)
            gradient += weight * (by_depth * offset).sum(axis=1)
            agree |= kept
            disagree |= kept & (squared > SINGLE_AGREES)
        agree &= ~disagree
        step = (gradient - (log - centre) / NETWORK**2) / (precision + 1.0 / NETWORK**2)
        log = log + np.clip(step, -0.3, 0.3)
    return log, precision, agree


# Lengths are those of a street; rooms, whose voxels are smaller, bring their own measure.
FARTHEST_M = 15.0  # depth of corners: farther ones give little over some metres
BASELINES_OF_SCALE_M = ((0.4, 1.5, 6.0),)  # way between two images: at least, wished for, at most
KEPT, KEPT_APART_M = 40, 0.25  # earlier images, and the way between them
CORNERS, FEWEST, APART_PX = 240, 25, 6  # at half the size of the image, as all pixels here
MOST_TURN = math.radians(20.0)  # between two images
FASTEST_TURN = math.radians(250.0)  # a second; beyond it, or `FASTEST_M_S`, odometry jumped
# Of the filter, of the logarithm of the factor: before the first measurement; of one measurement; of what changes with
# the street along a way; and what no measurement shows, since odometry is off as well.
PRIOR, MEASURED, CHANGES, CHANGES_OVER_M, ALWAYS = 0.5, 0.05, 0.05, 50.0, 0.03
ODOMETRY_M = 0.03  # standard deviation of a way
ALIKE_OVER_M = 4.0  # measurements along this way share their errors
SURE, AGREEING = 0.15, 3  # standard deviation up to which the factor is given; measurements that agree before that
GATE, MOST_OUTSIDE = 3.0, 5  # measurements beyond so many standard deviations; so many of them are a new street
FORGOTTEN_AFTER_S = 5.0  # without an image


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

    def __init__(self, camera: Camera, covered: Mask, measure: float = 1.0) -> None:
        self._follower = CornerFollower(camera, covered, measure)
        self._measure = measure
        self.forget()

    def forget(self, why: str = "no image yet") -> None:
        """Nothing of the images so far counts any more; `why`: for the report."""
        self._past: deque[PosedImage] = deque(maxlen=KEPT)
        self._last: PosedImage | None = None
        self._log_factor, self._variance, self._way, self._outside, self._agreeing = 0.0, PRIOR**2, 0.0, 0, 0
        self.scale = Scale(why=why)

    def add(self, image_rgb: Bytes, depth: Floats, pose: RigidTransform | str, stamp_ns: int) -> Scale:
        """The scale after one more image.

        Args:
            image_rgb: The canonical image, uint8 [H, W, 3].
            depth: The network's own z-depth [h, w], metres; any size.
            pose: Of the camera's optical frame in the odometry frame; or why it is unknown, which clears the memory.
            stamp_ns: Stamp of the image.
        """
        if isinstance(pose, str):
            self.forget(f"no odometry: {pose}")
            return self.scale
        now = self._follower.posed(image_rgb, pose, stamp_ns)
        last = self._last
        jump = "" if last is None else odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns)
        if jump:
            self.forget()
        step = 0.0 if self._last is None else _length(self._last.pose.inverse() @ pose)
        self._way += step
        self._variance += CHANGES**2 * step / (CHANGES_OVER_M * self._measure)
        corners, baseline, why = 0, 0.0, jump or "no earlier image at a distance that fits"
        for past in self._follower.chosen(self._past, pose, BASELINES_OF_SCALE_M):
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

    def depths(self, image_rgb: Bytes, depth: Floats, pose: RigidTransform, stamp_ns: int) -> Floats | None:
        """Depths of corners of an image that is not added yet, by their motion since earlier ones.

        They are as `Evidence.sensed`; None where there is no earlier image to follow them to. Arguments: as of `add`.
        """
        last = self._last
        if last is None or odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns):
            return None
        now = self._follower.posed(image_rgb, pose, stamp_ns)
        follower = self._follower
        inverse = follower.inverse_depth(depth) * np.float32(math.exp(-self._log_factor))
        corners = follower.corners(now.grey, inverse, SINGLE_FARTHEST_M, SINGLE_CORNERS, SINGLE_APART_PX)
        points = follower.points(corners, inverse)
        near = points[:, 2] < SINGLE_NEAR_M * follower.measure
        seen: list[tuple[Doubles, Mask, Way]] = []
        for past in follower.chosen(self._past, pose, BASELINES_M):
            found, kept = follower.follow(now, past, inverse, corners)
            if np.count_nonzero(kept & near) < SINGLE_FEWEST:
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
        sensed[1, row, column] = 1.0 / (deviation[kept] ** 2 + SINGLE_ALWAYS**2)
        return sensed

    def _followed(self, now: PosedImage, past: PosedImage, depth: Floats) -> tuple[int, Way | None]:
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
