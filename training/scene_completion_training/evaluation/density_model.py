"""What occupancy is evaluated on: anything that looks at a sequence and then has a density everywhere.

The deployed student is one, and its completer says labels as well.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, ROOM_CLASSES
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.completer import Completer, EarlierImages
from scene_completion_ros.inference.encoded_image import EncodedImage, Given
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.evidence import (
    NETWORK_ALONE,
    NO_EVIDENCE,
    Evidence,
    Sources,
    motion_scale,
    own_depth,
    sensed_depth,
)
from scene_completion_ros.inference.motion_scale import MotionScale
from scene_completion_ros.inference.query_kernel import FieldKernel
from scene_completion_ros.inference.scene_query import inverse_distance_samples, said_depth
from scene_completion_ros.inference.volume_pose import volume_pose
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.sequences.posed_sequence import PosedSequence, mounting, reference_camera
from scene_completion_ros.voxels.occupancy import Calibration, composite, density_of_opacity
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Mask

VOXEL_EDGE = 0.2  # metres over which opacity is stated: the voxels of all ground truths here
PUBLISHED_CUTOFF = 0.5  # density per metre above which the literature's protocols call a point occupied
PUBLISHED_RULE, CALIBRATED_RULE = "σ > 0.5", "calibrated"
# Cut-offs of semantic completion in their papers' code, per metre.
LITERATURE = {"SceneDINO: σ ≥ 0.2": 0.2, "S4C: σ ≥ 0.25": 0.25}
IDENTITY = Calibration()
_CHUNK = 2048  # rays rendered at a time

DensityFunction: TypeAlias = Callable[[Floats], Floats]
DepthFunction: TypeAlias = Callable[[Doubles], Floats]


@dataclass(frozen=True, eq=False)
class Observation:
    """A model that has seen its images of one frame."""

    camera: Camera  # the reference camera of the frame, in whose optical frame all points are
    density: DensityFunction  # density per metre [N] at points [N, 3], metres
    depth_range: tuple[float, float] = (3.0, 80.0)  # nearest and farthest sample along a ray, metres
    depth_at: DepthFunction | None = None  # z-depth [N] at pixels [N, 2], metres, of a model that says it itself

    def depth(self, pixels: Doubles, *, samples: int = 64) -> Floats:
        """z-depth [N] of rays through pixels [N, 2] (u, v), metres: as the model says it, or rendered."""
        if self.depth_at is not None:
            return self.depth_at(pixels)
        distances = inverse_distance_samples(samples, *self.depth_range)
        depth = np.empty(len(pixels), dtype=np.float32)
        for start in range(0, len(pixels), _CHUNK):
            density, length = self.along_rays(pixels[start : start + _CHUNK], distances)
            depth[start : start + _CHUNK] = composite(density, distances).distance / length
        return depth

    def along_rays(self, pixels: Doubles, distances: Doubles) -> tuple[Floats, Doubles]:
        """Density [N, K] at distances [K] along the rays of pixels [N, 2], and their length [N] where z-depth is 1."""
        rays = self.camera.unproject(pixels)
        length = np.linalg.norm(rays, axis=1)
        points = (rays / length[:, None])[:, None, :] * distances[:, None]  # [N, K, 3]
        return self.density(points.reshape(-1, 3).astype(np.float32)).reshape(len(rays), -1), length

    def depth_image(self, stride: int) -> Floats:
        """Expected z-depth [H / stride, W / stride] of every stride-th pixel, metres."""
        pixels = self.camera.pixel_centres()[::stride, ::stride]
        return self.depth(pixels.reshape(-1, 2)).reshape(pixels.shape[:2])


class DensityModel(Protocol):
    """Anything that can be evaluated."""

    @property
    def name(self) -> str:
        """Short name for tables."""

    @property
    def cutoffs(self) -> Mapping[str, float]:
        """Rule by which a point is called occupied -> density per metre that it exceeds."""

    @property
    def calibration(self) -> Calibration:
        """From opacity over `VOXEL_EDGE` to probability; the identity where none was fitted."""

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Look at a frame, and at whatever other frames and cameras of the sequence the model uses."""


class RememberedDensity:
    """A density model that several share: it remembers the last frame, and the density of the points asked for last."""

    def __init__(self, model: DensityModel) -> None:
        self.name, self.cutoffs, self.calibration = model.name, model.cutoffs, model.calibration
        self._model = model
        self._seen: tuple[PosedSequence, int, Observation] | None = None

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Look at a frame, unless it is that of the last call."""
        if self._seen is None or self._seen[0] is not sequence or self._seen[1] != index:
            seen = self._model.observe(sequence, index)
            self._seen = sequence, index, dataclasses.replace(seen, density=_remembering_last(seen.density))
        return self._seen[2]


def _remembering_last(density: DensityFunction) -> DensityFunction:
    last: list[Floats] = []

    def remembered(points: Floats) -> Floats:
        if not last or not np.array_equal(points, last[0]):
            last[:] = points.copy(), density(points)
        return last[1].copy()

    return remembered


def over_voxel_edge(calibration: Calibration, edge: float) -> Calibration:
    """A calibration of opacities over some edge, metres, as one of opacities over `VOXEL_EDGE`."""
    if calibration.kind == "identity" or edge == VOXEL_EDGE:
        return calibration
    alpha, probability = calibration.knots()
    over = -np.expm1(VOXEL_EDGE / edge * np.log1p(-np.minimum(alpha, 1.0 - 1e-15)))
    kept = np.flatnonzero(np.diff(over, prepend=-1.0) > 0.0)  # nearly certain ones may fall together
    return Calibration("piecewise_linear", tuple(over[kept].tolist()), tuple(probability[kept].tolist()))


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


_POINTS = 1 << 20  # points prepared at a time


ALL_BEAMS = 64  # of the LiDAR of KITTI


def of_beams(sequence: PosedSequence, points_rig: Floats, beams: int) -> Mask:
    """Which points [N, 3] of a LiDAR in the rig frame are of so many of its beams, evenly over its elevations."""
    rig_from_lidar = sequence.rig_from_sensor.get("velodyne", RigidTransform.identity())
    x, y, z = rig_from_lidar.inverse().apply(points_rig).T
    elevation = np.arctan2(z, np.hypot(x, y))
    low, high = np.percentile(elevation, (0.5, 99.5))
    number = np.floor((elevation - low) / (high - low) * ALL_BEAMS)
    return np.asarray(number % (ALL_BEAMS // beams) == ALL_BEAMS // beams // 2)


def check_sources(bundle: StudentBundle, name: str, sources: Sources) -> None:
    """Raise ConfigurationError where a student is to have evidence that it does not take."""
    if sources != NETWORK_ALONE and not bundle.takes_evidence:
        what = "takes no evidence beside its image"
        cure = "Leave out --scale-from and --depth-from"
        raise ConfigurationError(what, where=f"bundle {name}", cure=cure)


MOST_EARLIER = 30  # earlier frames that are looked at for one
# Canonical image [H, W, 3] of a frame, and what a student says of its depth by itself, see `Completion.own_depth`.
Look: TypeAlias = Callable[[int], tuple[Bytes, Floats]]


class EarlierFrames:
    """What the earlier frames of a recording say of one, as a robot that drives through it would know it.

    Frames may be asked for in any order; in that of the recording, each is looked at once.
    """

    def __init__(self, sources: Sources) -> None:
        self._corners = sources.scale == "corners"
        self._now: tuple[PosedSequence, str, int, EarlierImages] | None = None

    def evidence(
        self, sequence: PosedSequence, index: int, camera: str, motion: Callable[[], MotionScale], look: Look
    ) -> Evidence:
        """What the frames before say of the image of a camera, by the poses of the recording."""
        now = self._now
        if now is None or now[0] is not sequence or now[1] != camera or not 0 <= index - now[2] <= MOST_EARLIER:
            now = sequence, camera, max(0, index - MOST_EARLIER), EarlierImages(motion(), corners=self._corners)
        _, _, start, earlier = now
        for one in range(start, index):
            pose, stamp_ns = sequence.world_from_camera(one, camera), sequence.frames[one].stamp_ns
            earlier.add(*look(one), pose, stamp_ns)
        self._now = sequence, camera, index, earlier
        return earlier.evidence(sequence.world_from_camera(index, camera), sequence.frames[index].stamp_ns)

    def completed(self, completer: Completer, sequence: PosedSequence, index: int, camera: str) -> Evidence:
        """The same for what is completed by a completer, which may change with the mounting of the camera."""

        def look(one: int) -> tuple[Bytes, Floats]:
            completion = completer.complete(sequence.image(one, camera), labels=False)
            assert completion.own_depth is not None
            return completion.image, completion.own_depth

        return self.evidence(sequence, index, camera, completer.motion_scale, look)


class DeployedModel:
    """A student bundle, in tables by its own name unless another is given.

    Raises ConfigurationError where it is to have evidence that it does not take.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        name: str | None = None,
        *,
        engine: str = "auto",
        threads: int | None = None,
        sources: Sources = NETWORK_ALONE,
    ) -> None:
        self.name = name or bundle.name
        self.bundle, self._sources = bundle, sources
        self.calibration = over_voxel_edge(bundle.calibration, bundle.grid.voxel_size)
        self.cutoffs = calibrated_cutoffs(self.calibration, bundle.threshold)
        self._threads = threads
        self._encoder = make_encoder(bundle, engine, threads=threads)
        self._field_of = lru_cache(maxsize=4)(self._make_field)
        self._resampler = lru_cache(maxsize=4)(lambda camera: Resampler(camera, bundle.canonical))
        self._earlier = EarlierFrames(sources)
        check_sources(bundle, self.name, sources)

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Encode the reference camera's image of a frame."""
        name = reference_camera(sequence)
        camera = sequence.cameras[name]
        evidence = NO_EVIDENCE
        if self._sources.scale != "off":
            motion = functools.partial(motion_scale, self.bundle, self._resampler(camera).validity)
            evidence = self._earlier.evidence(sequence, index, name, motion, functools.partial(self._look, sequence))
        evidence = dataclasses.replace(evidence, sensed=self._sensed(sequence, index, name))
        field, encoded, _ = self._encoded(sequence, index, evidence)
        depth_at = None
        if encoded.depth is not None:
            depth_at = functools.partial(said_depth, encoded.depth.copy(), self.bundle.canonical, camera)
        density = functools.partial(self._density, field, encoded)
        return Observation(camera, density, self.bundle.depth_range, depth_at)

    def _encoded(
        self, sequence: PosedSequence, index: int, evidence: Evidence = NO_EVIDENCE
    ) -> tuple[FieldKernel, EncodedImage, Bytes]:
        name = reference_camera(sequence)
        stated = mounting(sequence, name, index) if self.bundle.takes_pose else None
        pose = None if stated is None else volume_pose(stated, self.bundle.height_above_ground).matrix
        field, beside = self._field_of(None if pose is None else tuple(pose.ravel().tolist()))
        image = self._resampler(sequence.cameras[name])(sequence.image(index, name))

        def given(view: Floats) -> Given:
            return beside | evidence.with_corners(image, own_depth(self.bundle.point_code, view)).inputs()

        given_view = given if self.bundle.takes_evidence else None
        return field, self._encoder.encode(image, beside, given_view), image

    def _look(self, sequence: PosedSequence, index: int) -> tuple[Bytes, Floats]:
        _, encoded, image = self._encoded(sequence, index)
        assert encoded.view is not None
        return image, own_depth(self.bundle.point_code, encoded.view)

    def _sensed(self, sequence: PosedSequence, index: int, camera: str) -> Floats | None:
        """What the LiDAR of a frame saw. Raises SequenceError where there is none."""
        if self._sources.depth == "network":
            return None
        points_rig = sequence.lidar(index)
        if points_rig is None:
            cure = "Name recordings with LiDAR, or leave out --depth-from"
            raise SequenceError("has no LiDAR scan", where=f"{sequence.name}, frame {index}", cure=cure)
        taken = points_rig[of_beams(sequence, points_rig, self._sources.beams)]
        points = sequence.rig_from_camera[camera].inverse().apply(taken)
        return sensed_depth(points, self.bundle.canonical)

    def _make_field(self, matrix: tuple[float, ...] | None) -> tuple[FieldKernel, dict[str, Floats]]:
        """The field for a pose of the camera in the student's volume, and what its graphs are given beside it."""
        pose = None if matrix is None else RigidTransform.from_matrix(np.reshape(matrix, (4, 4)))
        bundle = self.bundle
        limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
        ends = np.array([-limit, -limit, low]), np.array([limit, limit, high])
        field = FieldKernel(bundle.head, bundle.point_code, bundle.canonical, bundle.feature_size, *ends, pose)
        return field, bundle.graph_inputs(pose)

    def _density(self, field: FieldKernel, encoded: EncodedImage, points: Floats) -> Floats:
        density = np.empty(len(points), dtype=np.float32)
        for start in range(0, len(points), _POINTS):
            chunk = points[start : start + _POINTS].astype(np.float64)
            samples = field.prepare(chunk, np.arange(len(chunk), dtype=np.int32))
            with kernel_threads(self._threads):
                field(encoded.features, samples, density[start : start + len(chunk)], volume=encoded.volume)
        return density


class DeployedLabels:
    """A student bundle with classes (a `ScoredModel`): occupied from its own threshold on, called by its own names.

    It is called like its folder. A class counts under its name among the common ones, or those of rooms, whichever hold
    more of its names; what is called something else is never right. Raises BundleError where the folder holds none, or
    a damaged one; ConfigurationError where none of its classes is one of the common ones, or it does not take the
    evidence that it is to have.
    """

    def __init__(self, folder: Path, *, engine: str, sources: Sources = NETWORK_ALONE) -> None:
        bundle = open_student(folder)
        self.name = folder.resolve().name
        check_sources(bundle, self.name, sources)
        self._sources = sources
        self._earlier = EarlierFrames(sources) if sources.scale != "off" else None
        self.labels = 1 + len(bundle.class_names)
        self.threshold, self._bundle, self._engine = bundle.threshold, bundle, engine
        self._completers: dict[tuple[object, ...], Completer] = {}
        both = (COMMON_CLASSES, ROOM_CLASSES)
        known = max(both, key=lambda classes: len(set(classes) & set(bundle.class_names)))
        common = {name: number for number, name in enumerate(known)}
        self._names = np.array([EMPTY, *(common.get(name, -1) for name in bundle.class_names)], dtype=np.int64)
        if not (self._names > EMPTY).any():
            what = f"none of its classes ({', '.join(bundle.class_names)}) is one of {', '.join(known[1:])}"
            cure = "Name its clusters with scene-completion classes, or score the checkpoint with --checkpoint"
            raise ConfigurationError(what, where=f"bundle {self.name}", cure=cure)

    def names(self) -> Ints:
        """The class [labels] of "empty" and of each of its classes, -1 for none; they were named before."""
        return self._names

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> Bytes:
        """Labels of the voxels of a frame: uint8 [X, Y, Z], 0 empty, class k as k + 1."""
        voxels, _ = self.complete(sequence, index, truth)
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume[tuple(voxels.index.T)] = 1 + voxels.label
        return volume

    def complete(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> tuple[SemanticVoxels, Floats]:
        """The image of a frame as voxels of the grid of its truth, and the probability of all [X, Y, Z]."""
        camera = reference_camera(sequence)
        image, stamp_ns = sequence.image(index, camera), sequence.frames[index].stamp_ns
        completer = self._completer(sequence, index, camera, truth)
        evidence = self._earlier.completed(completer, sequence, index, camera) if self._earlier else NO_EVIDENCE
        completion = completer.complete(image, stamp_ns, evidence=evidence)
        return completion.voxels, completion.probability

    def _completer(self, sequence: PosedSequence, index: int, camera: str, truth: VoxelTruth) -> Completer:
        pose = truth.grid_from_camera
        key = (sequence.cameras[camera], truth.grid, pose.rotation.tobytes(), pose.translation.tobytes())
        if key not in self._completers:
            stands, lens = mounting(sequence, camera, index), sequence.cameras[camera]
            options: dict[str, Any] = {"grid": truth.grid, "grid_from_camera": pose, "engine": self._engine}
            last = next(iter(self._completers.values()), None)  # its encoder took seconds to compile
            made = Completer(self._bundle, lens, upright_from_camera=stands, encoder_of=last, **options)
            self._completers = {key: made}  # one at a time: each holds prepared samples of its whole grid
        return self._completers[key]
