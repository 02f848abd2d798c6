"""What is known of the depth of an image, and of its camera's pose above the road, by the motion of the camera.

It is estimated between what pixels show and the decoding of cells, by the same object in the node, in a replay without
it, and in scores.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from scene_completion_ros.arrays import Bytes, Floats, Mask
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid, measure_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.cells import Measured
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.motion_scale import MotionScale, Scale

# What `Evidence.summary` names.
SCALE, DEVIATION, WHY = "scale", "scale deviation", "scale not measured"
WARNING = "warning"  # `Completion.warning`
CORNERS = "corners with a depth by motion"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of depth before an image is completed; only students that take evidence use it.

    Attributes:
        scale: Factor on all depths; None where it is unknown.
        sensed: float32 [2, H / 2, W / 2], logarithm of depths of single corners by motion (metres, in pixels of the
            canonical camera at half its size) and the precision of that, 0 for pixels without; None for none.
        upright_from_camera: Pose of the camera's optical frame in a frame that stands upright on the road below it;
            None where nothing better is known than what the completer was made with.
    """

    scale: Scale | None = None
    sensed: Floats | None = None
    upright_from_camera: RigidTransform | None = None

    def standing(self, upright_from_camera: RigidTransform | None) -> "Evidence":
        """The same with the stated pose, where none is known for the image."""
        return replace(self, upright_from_camera=self.upright_from_camera or upright_from_camera)

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
        gave no measurement. `CORNERS` is the number of pixels with a depth by motion.
        """
        summary: dict[str, float | str] = {}
        if self.scale is not None:
            if math.isfinite(self.scale.deviation):
                summary |= {SCALE: round(self.scale.factor, 4), DEVIATION: round(self.scale.deviation, 4)}
            if self.scale.why:
                summary[WHY] = self.scale.why
        if self.sensed is not None and (corners := int(np.count_nonzero(self.sensed[1]))):
            summary[CORNERS] = corners
        return summary


NO_EVIDENCE = Evidence()


def own_depth(spec: PointCodeSpec, surfaces: Floats) -> Floats:
    """z-depth [H / 2, W / 2], metres, predicted by pixels before any evidence; `surfaces`: of `Pixels`."""
    return np.asarray(1.0 / np.maximum(spec.inverse_depth(surfaces[..., 0]), 0.5 / spec.far), np.float32)


class EvidenceEstimator(MotionScale):
    """Estimates the evidence of the images of one camera, each by those before it; belongs to one thread.

    `canonical`, `grid`: of the student; `covered`: see `MotionScale`; `corners`: whether single corners get a depth by
    motion, too.
    """

    def __init__(self, canonical: Camera, grid: VoxelGrid, covered: Mask, *, corners: bool = False) -> None:
        super().__init__(canonical, covered, measure_of(grid))
        self.corners = corners

    def evidence(
        self,
        image_rgb: Bytes,  # the canonical image, uint8 [H, W, 3]
        own_depth: Floats,  # what its pixels show, metres [H / 2, W / 2]
        pose: RigidTransform | str,  # as of `add`
        stamp_ns: int,
    ) -> Evidence:
        """The evidence for an image: the scale, and the depths of its corners where these are wanted."""
        found = None
        if self.corners and not isinstance(pose, str):
            found = self.depths(image_rgb, own_depth, pose, stamp_ns)
        return Evidence(self.scale, found)
