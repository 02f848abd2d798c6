"""Corners of an image that are found again in earlier ones, and how the camera moved by them.

As far as odometry and the depths of a network say, the earlier image is first drawn as it would look from here: what is
left to follow are some pixels, and bodies are as large in both. Rotation and direction of the way by odometry are
refined with the scale of the depths, since a tenth of a degree matters. Depths of corners are off by much more than
their scale, neighbours alike, and what moves by itself by more yet: all three are in the statistics (a two-view
adjustment with a prior on each depth, wider where corners are crowded or far, and a Student-t distribution; Lange et
al. 1989).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform

Doubles = NDArray[np.float64]

NEAREST_M = 1.5  # depth of corners, in streets
AWAY_AND_BACK_PX = 0.4  # a corner that is followed away and back again ends where it began
# Standard deviations: of a place in an image, pixels; of the logarithm of one depth; of rotation and direction between
# two poses of odometry, radians.
PIXEL, DEPTH, ROTATION, DIRECTION = 0.3, 0.1, math.radians(0.15), math.radians(2.0)
FREEDOM = 2.0  # degrees of freedom of the Student-t distribution
# One wall fills half of an image, with most of its corners, and is one thing that the network is wrong about. So the
# doubt about each corner grows with their number in its part of the image, so many across, and with a depth beyond
# this, metres, where networks err most.
PARTS_ACROSS, NEAR_M = 8, 8.0
AGREES, LEAST_AGREEING = 9.0, 0.5  # squared distance in standard deviations; least share of corners below it
# What odometry cannot be off by, unless it says something else than how this camera moved.
MOST_TURNED, MOST_ASIDE = math.radians(1.0), math.radians(8.0)
MOST_FACTOR = 1.8  # nor are networks off by as much


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image at half its size, grey, and where its camera stood."""

    grey: NDArray[np.uint8]
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
        """Why it says nothing; empty where it does."""
        if self.share < LEAST_AGREEING:
            return f"only {100.0 * self.share:.0f} % of the corners move as odometry says"
        if self.turned > MOST_TURNED or self.aside > MOST_ASIDE:
            off = f"{math.degrees(self.turned):.1f}° and the direction by {math.degrees(self.aside):.0f}°"
            return f"the rotation by odometry is off by {off}"
        if abs(self.log_factor) > math.log(MOST_FACTOR):
            return f"a factor of {math.exp(self.log_factor):.2f} is none of a network: is odometry in metres?"
        return ""


class CornerFollower:
    """Finds corners in images of one camera at half their size, and again in earlier images.

    Args:
        camera: The canonical camera, without distortion.
        covered: Pixels of its image that show something, bool [H, W]; None for all.
        measure: Lengths here over those of a street.
    """

    def __init__(self, camera: Camera, covered: NDArray[np.bool_] | None, measure: float) -> None:
        half = camera.resized(camera.width // 2, camera.height // 2)
        self.size, self.measure = (half.width, half.height), measure
        whole = np.ones((half.height, half.width), np.uint8)
        if covered is not None:
            resized = cv2.resize(covered.astype(np.uint8), self.size, interpolation=cv2.INTER_NEAREST)
            whole = np.asarray(resized, np.uint8)
        self._covered = whole
        self.focal, self.centre = np.array([half.fx, half.fy]), np.array([half.cx, half.cy])
        rays = half.unproject(half.pixel_centres()).astype(np.float32)
        self.rays = np.ascontiguousarray(np.moveaxis(rays, -1, 0))  # [3, H / 2, W / 2], where depth is 1

    def posed(self, image_rgb: NDArray[np.uint8], pose: RigidTransform, stamp_ns: int) -> PosedImage:
        """A canonical image, uint8 [H, W, 3], as it is followed."""
        grey = cv2.resize(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY), self.size, interpolation=cv2.INTER_AREA)
        return PosedImage(np.asarray(grey, np.uint8), pose, stamp_ns)

    def inverse_depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """One over a depth of any size, at the pixels that corners are found in."""
        return np.asarray(cv2.resize(1.0 / depth, self.size, interpolation=cv2.INTER_LINEAR), np.float32)

    def corners(
        self, grey: NDArray[np.uint8], inverse: NDArray[np.float32], farthest: float, count: int, apart: int
    ) -> NDArray[np.float32]:
        """The strongest corners [N, 1, 2] (u, v) within `NEAREST_M` and `farthest`, metres, so many pixels apart."""
        near, far = NEAREST_M * self.measure, farthest * self.measure
        mask = ((inverse > 1.0 / far) & (inverse < 1.0 / near)).astype(np.uint8) & self._covered
        found = cv2.goodFeaturesToTrack(grey, count, 0.003, apart, mask=mask)
        return np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)

    def points(self, corners: NDArray[np.float32], inverse: NDArray[np.float32]) -> Doubles:
        """Corners in space [N, 3] by the depths of the network (optical frame, metres)."""
        column, row = np.rint(corners[:, 0]).astype(np.int64).T
        return np.asarray((self.rays[:, row, column] / inverse[row, column]).T, np.float64)

    def follow(
        self, now: PosedImage, past: PosedImage, inverse: NDArray[np.float32], corners: NDArray[np.float32]
    ) -> tuple[Doubles, NDArray[np.bool_]]:
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
        away, tracked = _followed(now.grey, as_from_here, corners)
        back, returned = _followed(as_from_here, now.grey, away)
        places = [cv2.remap(part, away[:, :, 0], away[:, :, 1], cv2.INTER_LINEAR)[:, 0] for part in (u, v)]
        found = np.stack(places, axis=1).astype(np.float64)
        kept = tracked & returned & (np.linalg.norm((back - corners)[:, 0], axis=1) < AWAY_AND_BACK_PX)
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
            slopes = np.concatenate([by_scale, -slope @ _crossing(moved), slope @ across.T], axis=2)  # [N, 2, 6]
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


def _followed(
    first: NDArray[np.uint8], second: NDArray[np.uint8], pixels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where pixels [N, 1, 2] of one image are in another, and whether they were found there [N] (Bouguet 2000)."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(first, second, pixels, pixels.copy(), winSize=(15, 15), maxLevel=2)
    return np.asarray(found, np.float32), np.asarray(status)[:, 0] == 1


def _crossing(vectors: Doubles) -> Doubles:
    """Matrices [N, 3, 3] of the cross product with vectors [N, 3] on the left."""
    x, y, z = vectors.T
    none = np.zeros_like(x)
    return np.stack([none, -z, y, z, none, -x, -y, x, none], axis=1).reshape(-1, 3, 3)
