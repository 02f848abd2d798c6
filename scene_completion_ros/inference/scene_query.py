"""From a canonical image to what is known of every voxel: what is prepared and known besides, and how the CPU does it.

A network predicts something even with a covered lens, in darkness or glare. So this module also judges whether an image
shows anything.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import Array, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.label_query import NO_WORDS, Labelled, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.motion_scale import MotionScale, Scale, measure_of
from scene_completion_ros.inference.query_kernel import VoxelQuery, sample_bilinear
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, VoxelState


class EncodedImage(NamedTuple):
    """The outputs of an encoder for one image."""

    features: NDArray[np.float32]  # float32 [h, w, C + E]
    # float32 [X, Y, Z], logits at the knots that the head reads; None where the encoder gives none.
    volume: NDArray[np.float32] | None = None
    # float32 [h', w'], z-depth of the pixels of `scene_query.ray_camera`, metres; only with a volume.
    depth: NDArray[np.float32] | None = None
    # float32 [2, x, y], the ground in cells of the volume: its height there and the standard deviation of that, metres;
    # only with a volume.
    surface: NDArray[np.float32] | None = None
    # float32 [K + 3, H / 2, W / 2], predictions of pixels alone, of students that take evidence; see
    # `StudentBundle.view_shape`.
    view: NDArray[np.float32] | None = None

    @staticmethod
    def of(outputs: Sequence[NDArray[np.float32]]) -> "EncodedImage":
        """Of the outputs of a graph, in order, for a batch of one image."""
        return EncodedImage(*(output[0] for output in outputs))


# Further inputs of graphs, by name; and what makes those of the decoder from `EncodedImage.view`.
GraphInputs: TypeAlias = Mapping[str, NDArray[np.float32]]
DecoderInputs: TypeAlias = Callable[[NDArray[np.float32]], GraphInputs]


class Encoder(Protocol):
    """Runs the encoder of one bundle."""

    name: str

    def encode(
        self,
        image_rgb: NDArray[np.uint8],
        extra_inputs: GraphInputs | None = None,
        decoder_inputs: DecoderInputs | None = None,
    ) -> EncodedImage:
        """The outputs for a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call.

        Of students that take evidence, `extra_inputs`: see `StudentBundle.graph_inputs`; None where the camera's pose
        is unknown; `decoder_inputs`: makes the decoder's inputs; None for no evidence.
        """
        ...

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of `encode` alone."""
        return self.encode(image_rgb).features


ROWS = 24  # square cells that an image is cut into from top to bottom; two by two of them make a window
LEAST_EDGE = 4  # pixels along the side of a cell, at least
# Standard deviation of the grey values (0..255) from which a window shows something; sensors are less noisy.
FAINTEST = 2.0
# Share of windows from which an image counts as whole. Streets by day had 0.71 to 1, half covered 0.36 to 0.51.
MOSTLY = 0.6
BLIND = 0.3  # share of windows below which nothing counts as seen. The same streets, 25 times darker, had 0.05 to 0.26


def shown_share(image_rgb: NDArray[np.uint8], covered: NDArray[np.bool_] | None = None) -> float:
    """Share (0..1) of windows of an image, uint8 [H, W, 3] RGB, within `covered`, bool [H, W], with content."""
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= grey.mean()  # so that the difference of the squares keeps its digits in float32
    shows = _windows(grey * grey) - _windows(grey) ** 2 >= FAINTEST**2
    counted = np.ones_like(shows) if covered is None else _windows(covered.astype(np.float32)) > 0.999
    return float(shows[counted].mean()) if counted.any() else 1.0


def content_warning(shown: float) -> str:
    """The warning about an image with this `shown_share`; empty where it shows enough."""
    if shown >= MOSTLY:
        return ""
    so = "no voxel counts as seen" if shown < BLIND else "the rest is a guess"
    return (
        f"only {100.0 * shown:.0f} % of the image shows anything, {so}. Is the lens covered, is it too dark or too "
        "bright, or are 16-bit values not scaled to 16 bits?"
    )


def _windows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over all windows of two by two cells."""
    edge = max(LEAST_EDGE, values.shape[0] // ROWS)
    rows, columns = (max(2, side // edge) for side in values.shape)
    cells = cv2.resize(values[: rows * edge, : columns * edge], (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.blur(cells, (2, 2))[1:, 1:], np.float32)


# A beam that passes a body and hits what is behind it, seen from elsewhere than by the camera, is left out where
# within so many pixels (across, down) another one is nearer by this factor.
BEHIND_PX, BEHIND = (5, 7), 1.15
# What `Evidence.summary` names.
SCALE, DEVIATION, WHY = "scale", "scale deviation", "scale not measured"
SENSED, CORNERS = "share of pixels with a depth of a sensor", "corners with a depth by motion"

# Depths of corners by motion, as `Evidence.sensed`, of a canonical image [H, W, 3] and the network's own depth, see
# `Completion.own_depth`; None where nothing is known.
CornerDepths: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32] | None]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of depth before an image is completed; only students that take evidence use it.

    Attributes:
        scale: Factor on all depths; None where it is unknown.
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
        """The inputs of a decoder, by the names of `head.graph_inputs`."""
        given = {}
        if self.scale is not None and math.isfinite(self.scale.deviation):
            log, precision = math.log(self.scale.factor), self.scale.deviation**-2
            given["scale"] = np.array([[log, precision]], np.float32)
        if self.sensed is not None:
            given["sensed"] = self.sensed[None]
        return given

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


def motion_scale(bundle: StudentBundle, covered: NDArray[np.bool_]) -> MotionScale:
    """What measures the scale of a student's images by motion; `covered`: as `MotionScale` has it."""
    return MotionScale(bundle.canonical, covered, measure_of(bundle.grid))


def own_depth(spec: PointCodeSpec, view: NDArray[np.float32]) -> NDArray[np.float32]:
    """z-depth [H / 2, W / 2], metres, predicted by pixels before any evidence; `view`: `EncodedImage.view`."""
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


# The rays of the march are pixels of about this focal length, or those of the network's image where it is smaller yet.
# At 36 m neighbours are a voxel of 0.2 m apart. What counts as seen depends on them.
RAY_FOCAL = 180.0


def ray_camera(canonical: Camera) -> Camera:
    """The camera whose pixels are marched along, for a canonical one."""
    stride = max(1, round(canonical.fx / RAY_FOCAL))
    return canonical.resized(canonical.width // stride, canonical.height // stride)


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """All that depends on a student, a camera, a grid and the pose between them."""

    query: VoxelQuery  # the field on the grid
    march: March  # the rays through it
    classifier: VoxelClassifier  # the states of its voxels
    labels: LabelQuery | None  # their labels; None where the student has no classes
    # Further inputs of the graph, by name, see `StudentBundle.graph_inputs`.
    extra_inputs: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        bundle: StudentBundle,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform,
        ray_camera: Camera,  # the camera of the depth image, without distortion
        *,
        # bool [H, W], the pixels of the canonical image that the camera covers; None for all.
        coverage: NDArray[np.bool_] | None = None,
        # Pose of the camera in the volume of a student that takes it; None where unknown.
        volume_from_camera: RigidTransform | None = None,
    ) -> "PreparedScene":
        """Prepare a grid."""
        camera_from_grid = grid_from_camera.inverse()
        query = VoxelQuery(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            grid,
            camera_from_grid,
            coverage=coverage,
            volume_from_camera=volume_from_camera,
        )
        labels = LabelQuery(query.field, query.samples, query.in_view.size) if bundle.head.label_hidden else None
        occupied_from = bundle.calibration.occupied_from(bundle.threshold)
        march = March(grid, camera_from_grid, ray_camera, occupied_from, far=bundle.depth_range[1])
        classifier = VoxelClassifier(
            grid, camera_from_grid, ray_camera, query.in_view, bundle.calibration, bundle.threshold
        )
        return cls(query, march, classifier, labels, bundle.graph_inputs(volume_from_camera))


class DenseField(Protocol):
    """What is known of all voxels, occupied or not."""

    @property
    def alpha(self) -> NDArray[np.float32]:
        """Opacity over one voxel edge as the network gives it, [X, Y, Z]; 0 outside the view."""
        ...

    @property
    def probability(self) -> NDArray[np.float32]:
        """Calibrated, [X, Y, Z]; 0 for unobserved voxels."""
        ...


@dataclass(frozen=True, eq=False)
class SceneAnswer:
    """What is known after one image; the arrays are the caller's."""

    occupied: NDArray[np.integer]  # flat indices of the N occupied voxels, in order
    # probability, label, confidence: Of these, float32, uint8 and float32 [N].
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    state: NDArray[np.uint8]  # uint8 [X, Y, Z], see `VoxelState`
    # depth, transmittance: float32 [h, w], see `MarchResult`.
    depth: NDArray[np.float32]
    transmittance: NDArray[np.float32]
    dense: DenseField  # what is known of all voxels
    times_ms: dict[str, float]  # milliseconds of encode, query, march, assemble and label
    matches: tuple[PhraseMatches, ...] = ()  # of the query that was asked, a phrase each; none where nothing was asked
    # The ground, see `EncodedImage`; None where the student does not predict it.
    surface: NDArray[np.float32] | None = None
    # float32 [H / 2, W / 2], see `own_depth`; None of a student that takes no evidence.
    own_depth: NDArray[np.float32] | None = None
    evidence: Evidence = NO_EVIDENCE  # what was used, depths of corners among it


class SceneQuery(Protocol):
    """Answers for one camera, grid and pose; belongs to the thread of its encoder."""

    def __call__(
        self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS, evidence: Evidence = NO_EVIDENCE
    ) -> SceneAnswer:
        """What is known after a canonical image, uint8 [H, W, 3] RGB.

        `words`: what the voxels are compared with, in a feature space of the student; `evidence`: what else is known of
        depth, of a student that takes it.
        """
        ...


@dataclass(frozen=True, eq=False)
class HostField:
    """`DenseField` in the host's memory."""

    alpha: NDArray[np.float32]
    probability: NDArray[np.float32]


class HostSceneQuery:
    """The kernels of the CPU behind an encoder that gives its features to the host."""

    def __init__(
        self,
        encode: Callable[[NDArray[np.uint8], GraphInputs, DecoderInputs | None], EncodedImage],  # see `Encoder.encode`
        prepared: PreparedScene,
        threads: int | None = None,  # CPU threads of the kernels; None for all that this process may use
    ) -> None:
        self._encode, self._prepared, self._threads = encode, prepared, threads

    def __call__(
        self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS, evidence: Evidence = NO_EVIDENCE
    ) -> SceneAnswer:
        """See `SceneQuery`."""
        prepared, clock = self._prepared, StageClock()
        own: NDArray[np.float32] | None = None

        def given(view: NDArray[np.float32]) -> GraphInputs:
            nonlocal evidence, own
            own = own_depth(prepared.query.field.code, view)
            evidence = evidence.with_corners(image_rgb, own)
            return prepared.extra_inputs | evidence.inputs()

        decoder_inputs = given if prepared.extra_inputs else None
        features, volume, depth, surface, _ = self._encode(image_rgb, prepared.extra_inputs, decoder_inputs)
        clock.lap("encode")
        with kernel_threads(self._threads):
            alpha = prepared.query.opacity(features, volume)
            clock.lap("query")
            rays = prepared.march(alpha, depth)
            clock.lap("march")
            probability, state = prepared.classifier(alpha, rays.half_distance)
            occupied = np.flatnonzero(state.reshape(-1) >= VoxelState.SURFACE)
            clock.lap("assemble")
            if prepared.labels is None:  # every voxel has the only class, of which there is no doubt
                labelled = Labelled(np.zeros(len(occupied), np.uint8), np.ones(len(occupied), np.float32))
            else:
                labelled = prepared.labels(features, occupied, words)
            clock.lap("label")
        return SceneAnswer(
            occupied=occupied,
            probability=probability.reshape(-1)[occupied],
            label=labelled.label,
            confidence=labelled.confidence,
            state=state,
            depth=rays.depth,
            transmittance=rays.transmittance,
            dense=HostField(alpha, probability),
            times_ms=clock.laps_ms,
            matches=labelled.matches,
            surface=None if surface is None else surface.copy(),
            own_depth=own,
            evidence=evidence,
        )


class StageClock:
    """Measures stages that come one after the other."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps_ms: dict[str, float] = {}  # milliseconds of each stage so far

    def lap(self, name: str) -> None:
        """The time since the last call was spent on a stage, which may come in several parts."""
        now = time.perf_counter()
        self.laps_ms[name] = self.laps_ms.get(name, 0.0) + 1e3 * (now - self._last)
        self._last = now


def inverse_distance(share: Array, near: float, far: float) -> Array:
    """Distance t = 1 / ((1 - s) / near + s / far), metres, at shares s [...] (0..1) of the way in inverse distance."""
    return 1.0 / ((1.0 - share) / near + share / far)


def inverse_distance_samples(count: int, near: float, far: float) -> NDArray[np.float64]:
    """`inverse_distance` at the middles s_i = (i + 1/2) / K: float64 [K], metres."""
    return np.asarray(inverse_distance((np.arange(count) + 0.5) / count, near, far), dtype=np.float64)


def predicted_depth(
    depth: NDArray[np.float32], canonical: Camera, camera: Camera, pixels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Predicted z-depth, at pixels of a camera at the place of the canonical one.

    Returns float32 [N], metres: linear in inverse depth between pixels, constant beyond the outer ones. NaN where the
    lens sees no ray. `depth`: `EncodedImage.depth`, float32 [h', w']; `canonical`: the student's camera, of whose
    `ray_camera` they are the pixels; `camera`: any model, same optical frame; `pixels`: pixel coordinates [N, 2] (u,
    v).
    """
    rays = camera.unproject(np.asarray(pixels, np.float64))
    places, _ = ray_camera(canonical).project(rays)
    size = np.array([depth.shape[1], depth.shape[0]])
    inverse = sample_bilinear(1.0 / depth[..., None], (2.0 * np.nan_to_num(places) + 1.0) / size - 1.0)[:, 0]
    return np.where(np.isfinite(rays).all(axis=1), 1.0 / inverse, np.nan).astype(np.float32)
