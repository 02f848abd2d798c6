"""What is evaluated: anything that completes a frame of a recording, and what metrics ask of that.

Trained fields, deployed students and controls are all a `Predictor`. Of a frame it makes a `Prediction`: density and
features of points, depth of pixels, and labels of voxels. Its `Answer` is that with the truth of the frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.depth import MAXIMUM_M, MINIMUM_M
from scene_completion_ros.evaluation.metric import VoxelAnswer
from scene_completion_ros.evaluation.semantic_classes import INVALID, SEMANTIC_KITTI_TO_COMMON, ClassMap
from scene_completion_ros.evaluation.truth import INTERIORS, FrameTruth, VoxelTruth
from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.inference.scene_query import inverse_distance_samples
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, Thresholds, composite, density_of_opacity, opacity
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints

if TYPE_CHECKING:
    from scene_completion_training.evaluation.lidar_evaluation import SlabTruth

VOXEL_EDGE = 0.2  # metres over which opacity is stated: the voxels of all ground truths here
PUBLISHED_CUTOFF = 0.5  # density per metre above which a point is occupied in the literature's protocols
PUBLISHED_RULE, CALIBRATED_RULE = "σ > 0.5", "calibrated"
# Cut-offs of semantic completion in their papers' code, per metre.
LITERATURE = {"SceneDINO: σ ≥ 0.2": 0.2, "S4C: σ ≥ 0.25": 0.25}
IDENTITY = Calibration()
# What is stated: the opacity itself, and the probability where a calibration was fitted.
BEFORE, AFTER = "before", "after"
_CHUNK = 2048  # rays rendered at a time

PointFunction: TypeAlias = Callable[[Floats], Floats]  # of points [N, 3], metres, optical frame
DepthFunction: TypeAlias = Callable[[Doubles], Floats]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a predictor makes of one frame; it holds until the predictor completes another one."""

    camera: Camera  # the reference camera of the frame, in whose optical frame all points are
    density: PointFunction  # density per metre [N] at points [N, 3], metres
    depth_range: tuple[float, float] = (3.0, 80.0)  # nearest and farthest sample along a ray, metres
    depth_at: DepthFunction | None = None  # z-depth [N] at pixels [N, 2], metres, where it is predicted, not rendered
    # Vectors [N, C] of points [N, 3], where there are some. What lies together in their space is alike. Those that
    # are clustered have length one; those that are compared with words lie in the space of the text encoder, and are
    # zeros where there is nothing.
    codes: PointFunction | None = None
    units: PointFunction | None = None  # hidden units of the features [N, E] of points, where there are some
    # Labels of the voxels of a truth that count: uint8 [X, Y, Z], 0 where nothing is; see `Predictor.names`.
    labels: Callable[[VoxelTruth], Bytes] | None = None
    # What the node would publish on the grid of a truth: voxels, and the probability and the opacity over an edge of
    # all of them, float32 [X, Y, Z]. None of a predictor of points alone.
    completed: Callable[[VoxelTruth], tuple[SemanticVoxels, Floats, Floats]] | None = None
    # Points of the ground ahead [N, 3], metres, NaN where the image does not show them, of students that predict it.
    ground: Callable[[], Floats] | None = None
    # Plane of the road by all that is known, not by these pixels alone, of students that level their volume by it.
    plane: Callable[[], RoadPlane] | None = None

    def depth(self, pixels: Doubles, *, samples: int = 64) -> Floats:
        """z-depth [N] of rays through pixels [N, 2] (u, v), metres: predicted by itself, or rendered."""
        if self.depth_at is not None:
            return self.depth_at(pixels)
        distances = inverse_distance_samples(samples, *self.depth_range)
        depth = np.empty(len(pixels), dtype=np.float32)
        for start in range(0, len(pixels), _CHUNK):
            rays = self.camera.unproject(pixels[start : start + _CHUNK])
            length = np.linalg.norm(rays, axis=1)  # where z-depth is 1
            points = (rays / length[:, None])[:, None, :] * distances[:, None]  # [N, K, 3]
            density = self.density(points.reshape(-1, 3).astype(np.float32)).reshape(len(rays), -1)
            depth[start : start + _CHUNK] = composite(density, distances).distance / length
        return depth

    def voxel_density(self, truth: VoxelTruth) -> Floats:
        """Density of the voxels that count in any region, float32 [X, Y, Z]; 0 elsewhere.

        It follows from the opacity that the node would publish where it sees; otherwise it is that of their centres.
        """
        counted = truth.known & np.logical_or.reduce(list(truth.regions_with_interiors.values()))
        density = np.zeros(truth.grid.shape, dtype=np.float32)
        if self.completed is not None:
            voxels, _, alpha = self.completed(truth)
            seen = counted & (voxels.state != VoxelState.UNOBSERVED)
            density[seen] = density_of_opacity(alpha[seen], truth.grid.voxel_size)
            counted &= ~seen
        density[counted] = self.density(truth.centres(counted))
        return density


class Predictor(ABC):
    """Anything that is evaluated; a method for `Scores`."""

    name: str  # short, for tables
    # Rule by which a point is occupied -> density per metre that it exceeds.
    cutoffs: Mapping[str, float] = MappingProxyType({PUBLISHED_RULE: PUBLISHED_CUTOFF})
    calibration: Calibration = IDENTITY  # from opacity over `VOXEL_EDGE` to probability
    thresholds: Thresholds = Thresholds(0.5, 0.5)  # of what it publishes

    @abstractmethod
    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Complete a frame, by whatever other frames and cameras of the sequence it uses."""

    def answer(self, frame: Frame) -> Answer:
        """Complete a frame that is scored."""
        return Answer(frame, self, self.complete(frame.sequence, frame.index))

    @property
    def labels(self) -> int:
        """How many labels it gives to voxels, "empty" among them."""
        return len(self.names())

    def names(self) -> Ints:
        """The class [labels] of each of its labels, "empty" first, -1 for none."""
        raise NotImplementedError(f"{self.name} has no classes")


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame, what is true of it, and what LiDAR saw of slabs ahead of its camera."""

    sequence: PosedSequence
    index: int
    truth: FrameTruth
    slabs: tuple[SlabTruth, ...] = ()

    @property
    def voxels(self) -> VoxelTruth:
        """Its true voxels, of a frame that has some."""
        assert self.truth.voxels is not None
        return self.truth.voxels


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a predictor to a frame, for the metrics; computed when it is needed."""

    frame: Frame
    predictor: Predictor
    prediction: Prediction

    @property
    def truth(self) -> FrameTruth:
        """What is known of the frame."""
        return self.frame.truth

    @property
    def camera(self) -> Camera:
        """The reference camera of the frame."""
        return self.prediction.camera

    @cached_property
    def voxels(self) -> VoxelAnswer | None:
        """Opacities, what exceeds each cutoff, and the stated probabilities, at the voxels that count anywhere."""
        truth = self.truth.voxels
        if truth is None:
            return None
        density = self.prediction.voxel_density(truth)
        alpha = opacity(density, VOXEL_EDGE)
        stated = {BEFORE: alpha}
        if self.predictor.calibration.kind != "identity":
            stated[AFTER] = self.predictor.calibration.apply(alpha)
        occupied = {rule: density > cutoff for rule, cutoff in self.predictor.cutoffs.items()}
        ground, obstacle = self.predictor.thresholds
        if self.prediction.completed is not None and ground != obstacle and CALIBRATED_RULE in occupied:
            state = self.prediction.completed(truth)[0].state  # which knows what stands on the ground
            seen = (density > 0.0) & (state != VoxelState.UNOBSERVED)
            occupied[CALIBRATED_RULE][seen] = state[seen] >= VoxelState.SURFACE
        return VoxelAnswer(alpha, occupied, stated, own=CALIBRATED_RULE if CALIBRATED_RULE in occupied else None)

    @cached_property
    def depth(self) -> Floats | None:
        """Expected z-depth [H, W], metres, where the true one counts; 0 elsewhere."""
        if self.truth.depth is None:
            return None
        true = self.truth.depth.depth
        row, column = np.nonzero((true > MINIMUM_M) & (true < MAXIMUM_M))
        depth = np.zeros_like(true)
        depth[row, column] = self.prediction.depth(np.stack([column, row], axis=-1).astype(np.float64))
        return depth

    @cached_property
    def labels(self) -> Bytes:
        """Labels of the frame's voxels, uint8 [X, Y, Z]."""
        assert self.prediction.labels is not None  # of methods that are scored by labels
        return self.prediction.labels(self.frame.voxels)

    @cached_property
    def classes(self) -> Bytes:
        """The true classes of the same voxels, uint8 [X, Y, Z]."""
        return voxel_classes(self.frame.voxels)


def voxel_classes(truth: VoxelTruth, class_map: ClassMap | None = None) -> Bytes:
    """Classes [X, Y, Z], the 15 of S4C by default; 255 where nothing is known, and inside of things no sensor sees.

    Raises GridError where a map of SemanticKITTI's ids was given, and the truth has others.
    """
    if class_map is not None and truth.class_map is not SEMANTIC_KITTI_TO_COMMON:
        what = f"has {truth.class_map.vocabulary}, and words are scored by SemanticKITTI's"
        raise GridError(what, where=f"ground truth {truth.source}", cure="Leave out --bank for these recordings")
    inside = np.False_ if truth.interior is None else truth.regions_with_interiors.get(INTERIORS, np.False_)
    return (class_map or truth.class_map).apply(np.where(truth.known & ~inside, truth.labels, INVALID))


def calibrated_cutoffs(calibration: Calibration, threshold: float) -> dict[str, float]:
    """The rules of the literature and, where a calibration was fitted, that of its threshold on the probability."""
    cutoffs = {PUBLISHED_RULE: PUBLISHED_CUTOFF}
    # "At least" becomes "more than" of the next smaller density.
    cutoffs |= {name: float(np.nextafter(np.float32(least), np.float32(0.0))) for name, least in LITERATURE.items()}
    if calibration.kind != "identity":
        reached = calibration.occupied_from(threshold)
        # "At least" becomes "more than" of the next smaller opacity.
        below = np.nextafter(reached, np.float32(0.0)).astype(np.float64)
        cutoffs[CALIBRATED_RULE] = float(density_of_opacity(below, VOXEL_EDGE))
    return cutoffs
