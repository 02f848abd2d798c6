"""What is known of an image besides its pixels, by the motion of the camera; and how it stands, by all together.

It is estimated between what pixels show and the decoding of cells, by the same objects in the node, in a replay without
it, and in scores.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_ros.geometry.grids import measure_of
from scene_completion_ros.geometry.road_plane import MOST_ROLL_DEG, RoadPlane, plane_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cell_query import Pixels
from scene_completion_ros.inference.cells import ON_ROADS
from scene_completion_ros.inference.depth_correction import (
    Measured,
    corrected_depth,
    depth_correction,
    plane_maps,
    usual_precision,
    with_corners,
)
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.motion_plane import MotionPlane
from scene_completion_ros.inference.motion_scale import MotionScale, Scale

# What summaries name.
SCALE, DEVIATION, WHY = "scale", "scale deviation", "scale not measured"
WARNING = "warning"  # `Completion.warning`
CORNERS = "corners with a depth by motion"
HEIGHT, PITCH, ROLL = "camera height in m", "camera pitch in °", "camera roll in °"
NO_PLANE = "road not measured"
# Standard deviation of roll and pitch up to which a volume is levelled, radians: that of what is stated.
LEVEL = math.radians(3.1)
# Of the plane that an image shows: the standard deviation over the deviation that the network gives, and the largest
# logarithm of a height, metres.
SEEN_DOUBT, MOST_LOG_HEIGHT = 1.5, 3.5
CONTRADICTS = math.radians(5.0)  # between a stated mounting and the picture


class OwnView(NamedTuple):
    """What the pixels of an image show before any evidence, at half the size of the canonical image."""

    depth: Floats  # z-depth [H / 2, W / 2], metres
    on_ground: Floats  # probabilities that they show the ground [H / 2, W / 2]
    plane: RoadPlane | None = None  # of the road, as the whole image shows it; None of students that see none

    @classmethod
    def of(cls, bundle: StudentBundle, pixels: Pixels) -> "OwnView":
        """Those of a student that takes evidence; copies."""
        spec, volume = bundle.point_code, bundle.volume
        assert volume is not None
        inverse = np.maximum(spec.inverse_depth(pixels.surfaces[..., 0]), 0.5 / spec.far)
        depth, on_ground = np.asarray(1.0 / inverse, np.float32), pixels.classes[..., volume.label].astype(np.float32)
        return cls(depth, on_ground, None if pixels.plane is None else _plane_of(pixels.plane))


def _plane_of(seen: Floats) -> RoadPlane:
    """The plane of `Pixels.plane`; what roads or numbers cannot have counts as unknown."""
    state, deviation = seen.astype(np.float64).T
    limits = np.array([math.radians(MOST_ROLL_DEG), math.radians(MOST_ROLL_DEG), MOST_LOG_HEIGHT])
    known = np.isfinite(state) & (deviation > 0.0)
    deviation = np.where(known, np.clip(SEEN_DOUBT * deviation, 1e-3, 10.0), 10.0)
    return plane_of(np.clip(np.where(known, state, 0.0), -limits, limits), np.diag(deviation**2))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known besides an image; only students that take evidence use it.

    Attributes:
        scale: Factor on all depths; None where it is unknown.
        sensed: float32 [2, H / 2, W / 2], logarithm of depths of single corners by motion (metres, in pixels of the
            canonical camera at half its size) and the precision of that, 0 for pixels without; None for none.
        plane: Plane of the road by motion and what is stated; None where motion tells nothing.
        why: Why the last image gave no measurement of the plane; empty where it gave one, or none was wanted.
    """

    scale: Scale | None = None
    sensed: Floats | None = None
    plane: RoadPlane | None = None
    why: str = ""

    def measured(self, size: tuple[int, int]) -> Measured | None:
        """What is known of depth for a map of this height and width; None where nothing is."""
        scale, sensed = np.zeros(2, np.float32), self.sensed
        if self.scale is not None and math.isfinite(self.scale.deviation):
            scale[:] = math.log(self.scale.factor), self.scale.deviation**-2
        if sensed is None and not scale.any():
            return None
        return Measured(scale, np.zeros((2, *size), np.float32) if sensed is None else sensed)

    def summary(self) -> dict[str, float | str]:
        """What was applied to an image, as a node publishes it and a report shows it; empty where nothing was asked.

        `SCALE` and `DEVIATION`, see `Scale`, are missing where the scale is unknown; `WHY` is why the last image
        gave no measurement, `NO_PLANE` the same of the road. `CORNERS` is the number of pixels with a depth by motion.
        """
        summary: dict[str, float | str] = {}
        if self.scale is not None:
            if math.isfinite(self.scale.deviation):
                summary |= {SCALE: round(self.scale.factor, 4), DEVIATION: round(self.scale.deviation, 4)}
            if self.scale.why:
                summary[WHY] = self.scale.why
        if self.sensed is not None and (corners := int(np.count_nonzero(self.sensed[1]))):
            summary[CORNERS] = corners
        if self.why:
            summary[NO_PLANE] = self.why
        return summary


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, eq=False)
class Standing:
    """How a camera stands for one image, and how the depths of its pixels are corrected, by all that is known.

    Attributes:
        numbers, covariance: See `Correction`, float64 [4] and [4, 4].
        plane: Of the road, by all that is known.
        level: The same without the depth of this image's pixels: on unknown streets, they show another one by 1 to 2
            degrees. None where nothing else tells of it.
        evidence: What it follows from.
        stated: The mounting as it was stated; None where it was not.
    """

    numbers: Doubles
    covariance: Doubles
    plane: RoadPlane
    level: RoadPlane | None = None
    evidence: Evidence = NO_EVIDENCE
    stated: RoadPlane | None = None

    @classmethod
    def of(
        cls, bundle: StudentBundle, own: OwnView | None, evidence: Evidence, upright_from_camera: RigidTransform | None
    ) -> "Standing":
        """The most probable one for an image of a student that takes evidence.

        `upright_from_camera`: stated pose of the camera's optical frame in a frame that stands upright on the ground
        below it; None where it is unknown.
        """
        assert bundle.volume is not None
        kind, measure = bundle.volume.ground, bundle.volume.measure
        # Without motion, floors get the doubts of roads: in a real office, their own cost AP.
        stated = None if upright_from_camera is None else RoadPlane.of_mounting(upright_from_camera, ON_ROADS.stated)
        usual = RoadPlane(0.0, 0.0, bundle.height_above_ground, np.diag(np.square(ON_ROADS.usual)))
        level = evidence.plane or stated
        if evidence.plane is None and own is not None and own.plane is not None:
            level = own.plane if stated is None else own.plane.joined(stated)
        plane = level or usual
        if own is None:
            return cls(np.zeros(4), np.diag(1.0 / np.array(usual_precision(kind))), plane, level, evidence, stated)
        height, width = own.depth.shape
        camera = bundle.canonical.resized(width, height)
        maps = plane_maps(camera, plane.state.astype(np.float32), np.linalg.inv(plane.covariance), kind)
        if level is None:  # a road of which nothing is known tells nothing
            maps = maps._replace(counts=np.zeros_like(maps.counts))
        measured = evidence.measured((height, width))
        found = depth_correction(1.0 / own.depth, own.on_ground, maps, kind, measure, measured)
        fused = plane_of(plane.state + found.plane, found.plane_covariance)
        return cls(found.numbers, found.covariance, fused, level, evidence, stated)

    def surfaces(self, spec: PointCodeSpec, measure: float, seen: Floats) -> Floats:
        """Logarithm of the corrected depth of pixels, metres, and its deviation, float32 [h, w, 2].

        `spec`, `measure`: of the student; `seen`: its `Pixels.surfaces`.
        """
        given = spec.inverse_depth(seen[..., 0]), seen[..., 1], self.numbers, self.covariance
        inverse, deviation = corrected_depth(*given, spec, measure)
        log_depth = -np.log(np.maximum(inverse, 0.5 / spec.far))
        if self.evidence.sensed is not None:
            log_depth, deviation = with_corners(log_depth, deviation, self.evidence.sensed)
        return np.stack([log_depth, deviation], axis=-1).astype(np.float32)

    @property
    def upright_from_camera(self) -> RigidTransform | None:
        """Pose of the camera above the road that its volume is levelled by; None where it is too doubtful."""
        known = self.level is not None and self.level.deviations[:2].max() <= LEVEL
        return self.level.upright_from_camera if self.level is not None and known else None

    @property
    def warning(self) -> str:
        """What the picture says against the stated mounting; empty where it says nothing."""
        if self.stated is None:
            return ""
        off = np.abs(self.plane.state - self.stated.state)[:2]
        if off.max() <= CONTRADICTS:
            return ""
        both = (np.degrees(one.state[:2]).round(1) + 0.0 for one in (self.stated, self.plane))
        (roll, pitch), (sees_roll, sees_pitch) = both
        return (
            f"the camera is stated to pitch by {pitch:.1f}° and to roll by {roll:.1f}°, while the road that it sees "
            f"says {sees_pitch:.1f}° and {sees_roll:.1f}°: check tf, or camera height, pitch and roll"
        )

    def summary(self) -> dict[str, float | str]:
        """`Evidence.summary`, and where motion knows the road `HEIGHT`, metres, `PITCH` and `ROLL`, degrees."""
        summary = self.evidence.summary()
        if self.evidence.plane is not None:
            roll, pitch = (round(math.degrees(angle), 2) for angle in (self.plane.roll, self.plane.pitch))
            summary |= {HEIGHT: round(self.plane.height, 3), PITCH: pitch, ROLL: roll}
        return summary


class EvidenceEstimator(MotionScale):
    """Estimates the evidence of the images of one camera, each by those before it; belongs to one thread.

    `covered`: see `MotionScale`; `corners`: whether single corners get a depth by motion, too.
    """

    def __init__(self, bundle: StudentBundle, covered: Mask, *, corners: bool = False) -> None:
        self._plane: MotionPlane | None = None
        super().__init__(bundle.canonical, covered, measure_of(bundle.grid))
        assert bundle.volume is not None
        given = bundle.height_above_ground, bundle.volume.ground, bundle.volume.measure
        self._plane, self._stated = MotionPlane(bundle.canonical, covered, *given), bundle.volume.ground.doubt.stated
        self.corners = corners

    def forget(self, why: str = "no image yet") -> None:
        """Let nothing of the images so far count any more; `why`: for the report."""
        super().forget(why)
        if self._plane is not None:
            self._plane.forget(why)

    def evidence(
        self,
        image_rgb: Bytes,  # the canonical image, uint8 [H, W, 3]
        own: OwnView,  # what its pixels show
        pose: RigidTransform | str,  # as of `MotionScale.add`
        stamp_ns: int,
        stated: RigidTransform | None,  # as of `Standing.of`
    ) -> Evidence:
        """The evidence for an image: the scale, the plane, and the depths of its corners where these are wanted."""
        found = None
        if self.corners and not isinstance(pose, str):
            found = self.depths(image_rgb, own.depth, pose, stamp_ns)
        assert self._plane is not None
        mounting = None if stated is None else RoadPlane.of_mounting(stated, self._stated)
        plane = (
            self._plane.plane(own.depth, own.on_ground, pose, stamp_ns, mounting, own.plane)
            if self._plane.measured
            else None
        )
        return Evidence(self.scale, found, plane, self._plane.why)

    def follow(
        self,
        image_rgb: Bytes,  # these: as of `evidence`
        own: OwnView,
        pose: RigidTransform | str,
        stamp_ns: int,
        stated: RigidTransform | None,
    ) -> None:
        """Measure scale and plane after one more image."""
        assert self._plane is not None
        self.add(image_rgb, own.depth, pose, stamp_ns)
        mounting = None if stated is None else RoadPlane.of_mounting(stated, self._stated)
        self._plane.add(image_rgb, own.depth, own.on_ground, pose, stamp_ns, mounting, own.plane)
