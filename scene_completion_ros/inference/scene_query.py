"""From a canonical image to what is known of every voxel: what is prepared for it, and how the CPU does it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import Array, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage, Given, GivenView
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence, own_depth
from scene_completion_ros.inference.label_query import NO_WORDS, Labelled, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import VoxelQuery, sample_bilinear
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, VoxelState

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
    labels: LabelQuery | None  # their labels; None where the student knows no classes
    # What the graph is given beside the image, by name, see `StudentBundle.graph_inputs`.
    beside: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        bundle: StudentBundle,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform,
        ray_camera: Camera,  # the camera of the depth image, without distortion
        *,
        extrapolate: bool = False,  # predict opacity outside the view too
        # bool [H, W], the pixels of the canonical image that the camera covers; None for all.
        coverage: NDArray[np.bool_] | None = None,
        # How the camera stands in the volume of a student that is told so; None where unknown.
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
            extrapolate=extrapolate,
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
        """Opacity over one voxel edge as the network gives it, [X, Y, Z]; 0 outside the view unless extrapolated."""
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
    # The ground, see `EncodedImage`; None where the student says nothing of it.
    surface: NDArray[np.float32] | None = None
    # float32 [H / 2, W / 2], see `evidence.own_depth`; None of a student that takes no evidence.
    own_depth: NDArray[np.float32] | None = None
    evidence: Evidence = NO_EVIDENCE  # what was known beside the image, depths of corners among it


class SceneQuery(Protocol):
    """Answers for one camera, grid and pose; belongs to the thread of its encoder."""

    def __call__(
        self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS, evidence: Evidence = NO_EVIDENCE
    ) -> SceneAnswer:
        """What is known after a canonical image, uint8 [H, W, 3] RGB.

        Raises ImageError where the image has another size or type. `words`: what the voxels are compared with, in a
        feature space of the student; `evidence`: what else is known of depth, of a student that takes it.
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
        encode: Callable[[NDArray[np.uint8], Given, GivenView | None], EncodedImage],  # see `Encoder.encode`
        prepared: PreparedScene,
        threads: int | None = None,  # CPU threads of the kernels; None for all that this process may use
    ) -> None:
        self._encode, self._prepared, self._threads = encode, prepared, threads
        self._takes_evidence = "scale" in prepared.beside

    def __call__(
        self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS, evidence: Evidence = NO_EVIDENCE
    ) -> SceneAnswer:
        """See `SceneQuery`."""
        prepared, clock = self._prepared, StageClock()
        own: NDArray[np.float32] | None = None

        def given(view: NDArray[np.float32]) -> Given:
            nonlocal evidence, own
            own = own_depth(prepared.query.field.code, view)
            evidence = evidence.with_corners(image_rgb, own)
            return prepared.beside | evidence.inputs()

        given_view = given if self._takes_evidence else None
        features, volume, depth, surface, _ = self._encode(image_rgb, prepared.beside, given_view)
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


def said_depth(
    depth: NDArray[np.float32], canonical: Camera, camera: Camera, pixels: NDArray[np.floating]
) -> NDArray[np.float32]:
    """z-depth that a student says itself, at pixels of a camera at the place of the canonical one.

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
