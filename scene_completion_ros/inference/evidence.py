"""What a robot knows besides one image: how far it moved, and what a depth sensor saw."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.motion_scale import MotionScale, Scale, measure_of

# A beam that passes beside a body and hits what is behind it, seen from elsewhere than by the camera, is left out where
# within so many pixels (across, down) another one is nearer by this factor.
BEHIND_PX, BEHIND = (5, 7), 1.15
# What `Evidence.summary` names.
SCALE, DEVIATION, WHY = "scale", "scale deviation", "scale not measured"
SENSED, CORNERS = "share of pixels with a depth of a sensor", "corners with a depth by motion"

# Depths of corners by motion, as `Evidence.sensed`, of a canonical image [H, W, 3] and what the network itself says of
# its depth, see `Completion.own_depth`; None where nothing is known.
CornerDepths: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32] | None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known beside an image; a student that does not take it makes nothing of it.

    Attributes:
        scale: By what all depths are to be multiplied; None where nobody knows.
        sensed: float32 [2, H / 2, W / 2], logarithm of depths that a sensor saw (metres, in pixels of the canonical
            camera at half its size) and the precision of that, see `sensed_depth`; None for none.
        corner_depths: What measures the depth of corners once the network has seen the image; None for nothing.
        corners: How many pixels of `sensed` have such a depth; those of the others are a sensor's.
    """

    scale: Scale | None = None
    sensed: NDArray[np.float32] | None = None
    corner_depths: CornerDepths | None = None
    corners: int = 0

    def with_corners(self, image_rgb: NDArray[np.uint8], own_depth: NDArray[np.float32]) -> "Evidence":
        """The same with the depths of the corners of its image, where no sensor saw them."""
        if self.corner_depths is None:
            return self
        found = self.corner_depths(image_rgb, own_depth)
        if found is None:
            return replace(self, corner_depths=None)
        free = np.ones(found[1].shape, np.bool_) if self.sensed is None else self.sensed[1] == 0.0
        sensed = found if self.sensed is None else np.where(free, found, self.sensed)
        return replace(self, corner_depths=None, sensed=sensed, corners=int(np.count_nonzero(found[1][free])))

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """What is said of the image, by the names of `volume_pose.no_evidence`."""
        given = {}
        if self.scale is not None and math.isfinite(self.scale.deviation):
            log, precision = math.log(self.scale.factor), self.scale.deviation**-2
            given["scale"] = np.array([[log, precision]], np.float32)
        if self.sensed is not None:
            given["sensed"] = self.sensed[None]
        return given

    def summary(self) -> dict[str, float | str]:
        """What was applied to an image, as a node publishes it and a report shows it; empty where nothing was asked.

        `SCALE` and `DEVIATION`, see `Scale`, are missing where the scale is not known; `WHY` says why the last image
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
    """Where a student takes its evidence from, beside an image.

    Attributes:
        scale: ``odometry`` for how far the camera moved since earlier images, ``corners`` also for depths of single
            corners by that, ``off`` for nothing.
        depth: ``lidar`` for the LiDAR of the frame, which evaluations alone offer, ``network`` for none.
        beams: Of how many of the LiDAR's beams, evenly over its elevations.
    """

    scale: str = "off"
    depth: str = "network"
    beams: int = 64


NETWORK_ALONE = Sources()


def motion_scale(bundle: StudentBundle, covered: NDArray[np.bool_]) -> MotionScale:
    """What measures the scale of a student's images by motion; `covered`: as `MotionScale` has it."""
    return MotionScale(bundle.canonical, covered, measure_of(bundle.grid))


def own_depth(spec: PointCodeSpec, view: NDArray[np.float32]) -> NDArray[np.float32]:
    """z-depth [H / 2, W / 2], metres, that pixels say before any evidence; `view`: `EncodedImage.view`."""
    return np.asarray(1.0 / np.maximum(spec.inverse_depth(view[0]), 0.5 / spec.far), np.float32)


def sensed_depth(
    points_camera: NDArray[np.floating], canonical: Camera, deviation: float = 0.02
) -> NDArray[np.float32]:
    """Points [N, 3] that a sensor saw (optical frame of the camera, metres) as `Evidence.sensed`.

    Each pixel has its nearest point. `deviation`: standard deviation of their depths, as a share of these.
    """
    half = canonical.resized(canonical.width // 2, canonical.height // 2)
    sensed = np.zeros((2, half.height, half.width), np.float32)
    points = points_camera[np.isfinite(points_camera).all(axis=1)]
    pixels, shown = half.project(points)
    shown &= points[:, 2] > 0.05
    if not shown.any():
        return sensed
    column, row = np.clip(np.rint(pixels[shown]), 0, (half.width - 1, half.height - 1)).astype(np.int64).T
    nearest = np.full((half.height, half.width), np.inf, np.float32)
    np.minimum.at(nearest, (row, column), points[shown, 2].astype(np.float32))
    around = np.minimum(cv2.erode(nearest, np.ones(BEHIND_PX[::-1], np.uint8)), np.float32(1e6))
    known = np.isfinite(nearest) & (nearest <= BEHIND * around)
    sensed[0, known] = np.log(nearest[known])
    sensed[1, known] = deviation**-2
    return sensed
