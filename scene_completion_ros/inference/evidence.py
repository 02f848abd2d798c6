"""What is known of the depth of an image besides the image: by motion, and by sensors.

It is estimated between what pixels show and the decoding of cells, by the same object in the node, in a replay without
it, and in scores.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.geometry.grids import VoxelGrid, measure_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cells import Measured
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.motion_scale import MotionScale, Scale

# A beam that passes a body and hits what is behind it, seen from elsewhere than by the camera, is left out where
# within so many pixels (across, down) another one is nearer by this factor.
BEHIND_PX, BEHIND = (5, 7), 1.15
# What `Evidence.summary` names.
SCALE, DEVIATION, WHY = "scale", "scale deviation", "scale not measured"
SENSED, CORNERS = "share of pixels with a depth of a sensor", "corners with a depth by motion"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of depth before an image is completed; only students that take evidence use it.

    Attributes:
        scale: Factor on all depths; None where it is unknown.
        sensed: float32 [2, H / 2, W / 2], logarithm of depths that a sensor saw (metres, in pixels of the canonical
            camera at half its size) and the precision of that, see `sensed_depth`; None for none.
        corners: How many pixels of `sensed` have such a depth; those of the others are a sensor's.
    """

    scale: Scale | None = None
    sensed: NDArray[np.float32] | None = None
    corners: int = 0

    def measured(self, size: tuple[int, int]) -> Measured | None:
        """What is known besides a prediction for a map of this height and width; None where nothing is."""
        scale, sensed = np.zeros(2, np.float32), self.sensed
        if self.scale is not None and math.isfinite(self.scale.deviation):
            scale[:] = math.log(self.scale.factor), self.scale.deviation**-2
        if sensed is None and not scale.any():
            return None
        return Measured(scale, np.zeros((2, *size), np.float32) if sensed is None else sensed)

    def summary(self) -> dict[str, float | str]:
        """What was applied to an image, as a node publishes it and a report shows it; empty where nothing was asked.

        `SCALE` and `DEVIATION`, see `Scale`, are missing where the scale is unknown; `WHY` is why the last image
        gave no measurement. `SENSED` is the share of pixels with a depth of a sensor, `CORNERS` the number of those
        with one by motion.
        """
        summary: dict[str, float | str] = {}
        if self.scale is not None:
            if math.isfinite(self.scale.deviation):
                summary |= {SCALE: round(self.scale.factor, 4), DEVIATION: round(self.scale.deviation, 4)}
            if self.scale.why:
                summary[WHY] = self.scale.why
        if self.corners:
            summary[CORNERS] = self.corners
        if self.sensed is not None and (seen := np.count_nonzero(self.sensed[1]) - self.corners):
            summary[SENSED] = round(seen / self.sensed[1].size, 4)
        return summary


NO_EVIDENCE = Evidence()


@dataclass(frozen=True)
class Sources:
    """Where a student takes its evidence from, besides an image.

    Attributes:
        scale: ``odometry`` for how far the camera moved since earlier images, ``corners`` also for depths of single
            corners by that, ``off`` for nothing.
        lidar_beams: So many beams of the LiDAR of the frame, evenly over its elevations, which evaluations alone
            offer; 0 for none.
    """

    scale: str = "off"
    lidar_beams: int = 0


NETWORK_ALONE = Sources()


def own_depth(spec: PointCodeSpec, surfaces: NDArray[np.float32]) -> NDArray[np.float32]:
    """z-depth [H / 2, W / 2], metres, predicted by pixels before any evidence; `surfaces`: of `Pixels`."""
    return np.asarray(1.0 / np.maximum(spec.inverse_depth(surfaces[..., 0]), 0.5 / spec.far), np.float32)


def sensed_depth(
    points_camera: NDArray[np.floating], canonical: Camera, deviation: float = 0.02
) -> NDArray[np.float32]:
    """Points [N, 3] that a sensor saw (optical frame of the camera, metres) as `Evidence.sensed`.

    Each pixel has its nearest point. `deviation`: standard deviation of their depths, as a share of these.
    """
    half = canonical.resized(canonical.width // 2, canonical.height // 2)
    sensed = np.zeros((2, half.height, half.width), np.float32)
    known = np.isfinite(points_camera).all(axis=1) & (points_camera[:, 2] > 0.05)
    depth = sparse_depth(points_camera[known], half)
    nearest = np.where(depth > 0.0, depth, np.float32(np.inf))
    around = np.minimum(cv2.erode(nearest, np.ones(BEHIND_PX[::-1], np.uint8)), np.float32(1e6))
    known = np.isfinite(nearest) & (nearest <= BEHIND * around)
    sensed[0, known] = np.log(nearest[known])
    sensed[1, known] = deviation**-2
    return sensed


class EvidenceEstimator(MotionScale):
    """Estimates the evidence of the images of one camera, each by those before it; belongs to one thread.

    `canonical`, `grid`: of the student; `covered`: see `MotionScale`; `corners`: whether single corners get a depth by
    motion, too.
    """

    def __init__(
        self, canonical: Camera, grid: VoxelGrid, covered: NDArray[np.bool_], *, corners: bool = False
    ) -> None:
        super().__init__(canonical, covered, measure_of(grid))
        self.corners = corners

    def evidence(
        self,
        image_rgb: NDArray[np.uint8],  # the canonical image, uint8 [H, W, 3]
        own_depth: NDArray[np.float32],  # what its pixels show, metres [H / 2, W / 2]
        pose: RigidTransform | str,  # as of `add`
        stamp_ns: int,
        sensed: NDArray[np.float32] | None = None,  # see `Evidence`
    ) -> Evidence:
        """The evidence for an image: the scale, and where no sensor saw them the depths of its corners."""
        found = None
        if self.corners and not isinstance(pose, str):
            found = self.depths(image_rgb, own_depth, pose, stamp_ns)
        if found is None:
            return Evidence(self.scale, sensed)
        free = np.ones(found[1].shape, np.bool_) if sensed is None else sensed[1] == 0.0
        joined = found if sensed is None else np.where(free, found, sensed)
        return Evidence(self.scale, joined, int(np.count_nonzero(found[1][free])))
