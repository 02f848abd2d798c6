"""The plane of the road by motion: what a camera that moves sees of the ground close by tells how it stands above it.

Corners on the road, and others, are found again in images of some metres before. By odometry and the plane, the earlier
image is first rendered as seen from here, so that little is left to follow. Roll, pitch and height above the plane are
then adjusted together with rotation and direction of the camera's way, since odometry is off by as much as roads are
askew: corners on the road lie in the plane, others at the network's depth times one factor, with a doubt about each (a
two-view adjustment by Gauss-Newton with priors and a Student-t distribution; Lange et al. 1989). A filter follows the
plane along the way (Kalman 1960), and what is stated of the mounting, or what pixels show, holds it.
"""

import math
from collections import deque
from dataclasses import replace

import cv2
import numpy as np

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.road_plane import RoadPlane, fitted_plane, normal, normal_slopes, plane_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cells import ROAD, Ground
from scene_completion_ros.inference.motion_scale import CornerFollower, PosedImage, odometry_jump

SURELY = 0.8  # probability from which a pixel is of the road: its rims are kerbs, which lie 15 cm higher
RIM_PX = 5  # pixels of the half image next to those that are not
OTHERS_M = 40.0  # farthest depth of other corners
ROAD_CORNERS, OTHER_CORNERS, APART_PX, FEWEST = 400, 150, 4, 15
WAYS_M = ((0.8, 1.5, 2.2), (2.0, 3.5, 6.0))  # to earlier images: at least, wished for, at most
KEPT, KEPT_APART_M = 40, 0.25
# Standard deviations: of a place in an image, pixels; of the logarithm of the depth of a corner on the road, which is
# no plane, and of another one; of the factor on these; of rotation and direction of odometry, radians.
PIXEL, FLAT, OTHERS, FACTOR, ROTATION, DIRECTION = 0.35, 0.015, 0.12, 0.3, math.radians(0.12), math.radians(1.0)
# From which depth these grow with it, of `Ground.farthest`, and metres as on streets; and to each side, of the former.
FAR_FLAT, FAR_OTHERS_M, ASIDE = 0.7, 10.0, 0.6
FREEDOM = 1.0  # degrees of freedom of the Student-t distribution
SHARE = 0.1  # of the information in one pair of images: errors of neighbouring corners, and of pairs, are alike
AGREES, LEAST_AGREEING = 9.0, 0.5  # squared distance in standard deviations; least share of corners below it
# How the plane changes along a way, standard deviations over a metre, and while a robot stands, over a second: of roll
# and pitch, radians, and of the logarithm of the height.
CHANGES, AGES = (math.radians(0.2), math.radians(0.2), 0.005), (math.radians(0.1), math.radians(0.1), 0.002)
LATE_M = 2.0  # way that a robot may have gone where its pose has not come
# Errors of what is stated, and of what pixels show, last for as long a way, metres.
ALIKE_OVER_M = 30.0
ALWAYS = math.radians(0.3), math.radians(0.2), 0.015  # what no measurement tells: roads are no planes


def plane_of_pixels(camera: Camera, depth: Floats, on_ground: Floats, kind: Ground) -> RoadPlane | None:
    """The plane of the ground close by as a network's pixels show it; None where they show too little of it.

    Args:
        camera: Pinhole, of the size of the maps.
        depth: z-depth [h, w], metres.
        on_ground: Probabilities that a pixel shows the ground [h, w].
        kind: The ground.
    """
    rows, columns = np.nonzero((on_ground > SURELY) & (depth > kind.nearest) & (depth < kind.farthest))
    z = depth[rows, columns].astype(np.float64)
    x, y = (columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z
    found = fitted_plane(np.stack([x, y, z], axis=-1)) if len(z) > 10 * FEWEST else None
    return None if found is None else replace(found, covariance=np.diag(np.square(kind.doubt.shown)))


class MotionPlane:
    """Follows the plane of the road through the images of one camera; belongs to one thread.

    Args:
        camera: The canonical camera, without distortion.
        covered: Pixels of its image that show something, bool [H, W].
        usual_height: Height of cameras above the ground, metres, where nothing tells it.
        kind: The ground.
        measure: Lengths here over those of a street.

    Attributes:
        why: Why the last image gave no measurement; empty where it gave one.
        measured: Images that gave a measurement, of those that were not forgotten.
    """

    def __init__(
        self, camera: Camera, covered: Mask, usual_height: float, kind: Ground = ROAD, measure: float = 1.0
    ) -> None:
        self._follower = CornerFollower(camera, covered, measure, shrink=1)
        self._half = camera.resized(camera.width // 2, camera.height // 2)
        self._kind, self._measure, self._usual_height = kind, measure, usual_height
        self.forget()

    def forget(self, why: str = "no image yet") -> None:
        """Let nothing of the images so far count any more; `why`: for the report."""
        self._past: deque[PosedImage] = deque(maxlen=KEPT)
        self._last: PosedImage | None = None
        self._plane: RoadPlane | None = None
        self.measured, self.why = 0, why

    def plane(
        self,
        own_depth: Floats,  # z-depth that the pixels of the image show, metres [H / 2, W / 2]
        on_ground: Floats,  # probabilities that these show the ground [H / 2, W / 2]
        pose: RigidTransform | str,  # of the optical frame in the odometry frame; or why it is unknown
        stamp_ns: int,
        stated: RoadPlane | None,  # of the mounting
        seen: RoadPlane | None = None,  # as the whole image shows it, see `OwnView`
    ) -> RoadPlane:
        """The plane of an image by those before it, by what is stated of the mounting, and by the image itself."""
        shown = seen or plane_of_pixels(self._half, own_depth, on_ground, self._kind)
        return self._expected(self._held(shown, stated), pose, stamp_ns).widened(np.square(ALWAYS))

    def _expected(self, held: RoadPlane, pose: RigidTransform | str, stamp_ns: int) -> RoadPlane:
        """The plane of an image, of which this is known without motion."""
        last, plane = self._last, self._plane
        if last is None or plane is None:
            return held
        seconds = 1e-9 * (stamp_ns - last.stamp_ns)
        if isinstance(pose, str):  # it has not come yet
            return plane.widened(np.square(CHANGES) * LATE_M + np.square(AGES) * seconds)
        if odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns):
            return held
        now_from_last = pose.inverse() @ last.pose
        metres = float(np.linalg.norm(now_from_last.translation)) / self._measure
        plane = plane.moved(now_from_last).widened(np.square(CHANGES) * metres + np.square(AGES) * seconds)
        if metres > 0.0:
            more = RoadPlane(held.roll, held.pitch, held.height, held.covariance * max(ALIKE_OVER_M / metres, 1.0))
            plane = plane.joined(more)
        return plane

    def add(
        self,
        image_rgb: Bytes,  # the canonical image, uint8 [H, W, 3]; other arguments: as of `plane`
        own_depth: Floats,
        on_ground: Floats,
        pose: RigidTransform | str,
        stamp_ns: int,
        stated: RoadPlane | None,
        seen: RoadPlane | None = None,
    ) -> None:
        """Measures the plane of one more image."""
        if isinstance(pose, str):
            self.forget(f"no odometry: {pose}")
            return
        last = self._last
        if last is not None and (jump := odometry_jump(last.pose, last.stamp_ns, pose, stamp_ns)):
            self.forget(jump)
        shown = seen or plane_of_pixels(self._half, own_depth, on_ground, self._kind)
        plane = self._expected(self._held(shown, stated), pose, stamp_ns)
        now = self._follower.posed(image_rgb, pose, stamp_ns)
        self.why = "the camera has not moved"  # the same images again would tell nothing new
        if not self._past or self._follower.apart(self._past[-1].pose, pose) > KEPT_APART_M:
            self.why = "no earlier image at a distance that fits"
            for past in self._follower.chosen(self._past, pose, WAYS_M):
                plane, self.why = self._adjusted(plane, now, past, own_depth, on_ground)
                self.measured += not self.why
            self._past.append(now)
        self._last, self._plane = now, plane

    def _held(self, shown: RoadPlane | None, stated: RoadPlane | None) -> RoadPlane:
        """What is known without motion."""
        if shown is None:
            height = stated.height if stated else self._usual_height
            shown = RoadPlane(0.0, 0.0, height, np.diag(np.square(self._kind.doubt.usual)))
        return shown if stated is None else shown.joined(stated)

    def _adjusted(
        self, plane: RoadPlane, now: PosedImage, past: PosedImage, own_depth: Floats, on_ground: Floats
    ) -> tuple[RoadPlane, str]:
        """The plane with what an image and an earlier one show of it; or as it was, and why they show nothing."""
        follower, measure = self._follower, self._measure
        own = follower.inverse_depth(own_depth)
        x, y, _ = follower.rays
        down = plane.down.astype(np.float32)
        of_plane = np.maximum((down[0] * x + down[1] * y + down[2]) / np.float32(plane.height), np.float32(1e-4))
        surely = cv2.erode((on_ground > SURELY).astype(np.uint8), np.ones((3, 3), np.uint8))
        road = cv2.resize(surely, follower.size, interpolation=cv2.INTER_NEAREST).astype(bool)
        near = (of_plane > 1.0 / self._kind.farthest) & (of_plane < 1.0 / self._kind.nearest)
        aside = np.abs(x) < ASIDE * self._kind.farthest * of_plane
        roadside = cv2.dilate((on_ground > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8))
        others = cv2.resize(roadside, follower.size, interpolation=cv2.INTER_NEAREST) == 0
        others &= (own < 0.4 / measure) & (own > 1.0 / (OTHERS_M * measure))
        on_road = follower.strongest(now.grey, road & near & aside, ROAD_CORNERS, APART_PX, 0.0003)
        off_road = follower.strongest(now.grey, others, OTHER_CORNERS, 2 * APART_PX, 0.005)
        corners = np.concatenate([on_road, off_road])
        inverse = np.where(road & (of_plane > 1.0 / (OTHERS_M * measure)), of_plane, own)
        found, kept = follower.follow(now, past, inverse, corners)
        flat = np.arange(len(corners)) < len(on_road)
        if np.count_nonzero(kept & flat) < FEWEST:
            return plane, f"only {np.count_nonzero(kept & flat)} corners of the road were found again"
        flat, pixels = flat[kept], corners[kept, 0]
        column, row = np.rint(pixels).astype(np.int64).T
        rays = np.column_stack([(pixels - follower.centre) / follower.focal, np.ones(len(pixels))])
        way = past.pose.inverse() @ now.pose
        return self._solved(plane, rays, flat, 1.0 / own[row, column].astype(np.float64), found[kept], way)

    def _solved(
        self, plane: RoadPlane, rays: Doubles, flat: Mask, depths: Doubles, found: Doubles, way: RigidTransform
    ) -> tuple[RoadPlane, str]:
        """The most probable plane of corners with these rays [N, 3] that were found at pixels [N, 2] of an image.

        The state: roll, pitch and the logarithm of the height; the logarithm of a factor on the depths [N] of corners
        that are not on the road (`flat`, bool [N]); rotation, and direction, of the way to that image.
        """
        follower, measure = self._follower, self._measure
        length = float(np.linalg.norm(way.translation))
        across = np.linalg.svd(way.translation[None])[2][1:] * length  # [2, 3], by a radian of direction
        prior = np.zeros((9, 9))
        prior[:3, :3] = np.linalg.inv(plane.covariance)
        prior[range(3, 9), range(3, 9)] = 1.0 / np.square([FACTOR, *[ROTATION] * 3, *[DIRECTION] * 2])
        start: Doubles = np.concatenate([plane.state, np.zeros(6)])
        state, agreeing, normal_equations = start, 0.0, prior
        near = np.where(flat, FLAT, OTHERS)
        far = np.where(flat, FAR_FLAT * self._kind.farthest, FAR_OTHERS_M * measure)
        for _ in range(8):
            down, slopes = normal(state[0], state[1]), normal_slopes(state[0], state[1])
            below = np.maximum(rays @ down, 1e-3)
            depth = np.where(flat, math.exp(state[2]) / below, math.exp(state[3]) * depths)
            turned = rays * depth[:, None] @ (cv2.Rodrigues(state[4:7])[0] @ way.rotation).T
            offset, slope = follower.offsets(turned + way.translation + state[7:] @ across, found, 0.1 * measure)
            by_depth = (slope @ turned[:, :, None])[..., 0]  # of the logarithm of each
            of_plane = -(rays @ slopes.T) / below[:, None]
            of_state = np.where(flat[:, None], np.column_stack([of_plane, np.ones(len(rays))]), 0.0)
            of_state = np.column_stack([of_state, ~flat])
            by = np.concatenate([by_depth[:, :, None] * of_state[:, None], np.cross(turned[:, None], slope)], axis=2)
            by = np.concatenate([by, slope @ across.T], axis=2)  # [N, 2, 9]
            doubt = near * np.maximum(1.0, depth / far)
            # As in `CornerFollower.way`: the doubt about each depth is integrated out.
            share = doubt**2 / (PIXEL**2 + doubt**2 * (by_depth**2).sum(axis=1))
            squared = ((offset**2).sum(axis=1) - share * (by_depth * offset).sum(axis=1) ** 2) / PIXEL**2
            agreeing = float((squared[flat] < AGREES).mean())
            weight = SHARE * (FREEDOM + 2.0) / (FREEDOM + squared) / PIXEL**2
            along = by - (share[:, None] * by_depth)[:, :, None] * (by_depth[:, None] @ by)
            along = (weight[:, None, None] * along).reshape(-1, len(state))
            normal_equations = along.T @ by.reshape(-1, len(state)) + prior
            step = np.linalg.solve(normal_equations, along.T @ offset.reshape(-1) - prior @ (state - start))
            state = state + step
            if np.abs(step).max() < 1e-5:
                break
        if agreeing < LEAST_AGREEING:
            return plane, f"only {100.0 * agreeing:.0f} % of the corners of the road move as a plane does"
        return plane_of(state[:3], np.asarray(np.linalg.inv(normal_equations)[:3, :3], np.float64)), ""
