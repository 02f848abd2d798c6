"""From a canonical image to what is known of every voxel: what is prepared and known besides, and how the CPU does it.

A network predicts something even with a covered lens, in darkness or glare. So this module also judges whether an image
shows anything.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Integers, Mask, Reals
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid, ray_camera
from scene_completion_ros.geometry.transforms import Array, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cell_query import (
    CameraPlace,
    CellSampler,
    CellVoxels,
    Pixels,
    PredictedCells,
)
from scene_completion_ros.inference.evidence import Standing
from scene_completion_ros.inference.label_query import NO_WORDS, Labelled, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import VoxelQuery, sample_bilinear
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier, occupied_voxels
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches


class CellNetworks(Protocol):
    """Runs the encoder and the decoder of a student that completes cells; what they give is overwritten by the next."""

    def see(self, image_rgb: Bytes) -> Pixels:
        """What the pixels of a canonical image show, uint8 [H, W, 3] RGB."""
        ...

    def complete(self, local: Floats, columns: Floats, seen_ground: Floats | None) -> PredictedCells:
        """What is predicted of cells; arguments: see `CellSampler`."""
        ...


ROWS = 24  # square cells that an image is cut into from top to bottom; two by two of them make a window
LEAST_EDGE = 4  # pixels along the side of a cell, at least
# Standard deviation of the grey values (0..255) from which a window shows something; sensors are less noisy.
FAINTEST = 2.0
# Share of windows from which an image counts as whole. Streets by day had 0.71 to 1, half covered 0.36 to 0.51.
MOSTLY = 0.6
BLIND = 0.3  # share of windows below which nothing counts as seen. The same streets, 25 times darker, had 0.05 to 0.26


def shown_share(image_rgb: Bytes, covered: Mask | None = None) -> float:
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


def _windows(values: Floats) -> Floats:
    """Means over all windows of two by two cells."""
    edge = max(LEAST_EDGE, values.shape[0] // ROWS)
    rows, columns = (max(2, side // edge) for side in values.shape)
    cells = cv2.resize(values[: rows * edge, : columns * edge], (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.blur(cells, (2, 2))[1:, 1:], np.float32)


class CellDecoder:
    """See and decode: from a canonical image, and what is known of depth and of the camera's place, to cells.

    `threads`: CPU threads of the kernels; None for all that this process may use. Belongs to its networks' thread.
    """

    def __init__(self, networks: CellNetworks, sampler: CellSampler, threads: int | None = None) -> None:
        self.networks, self.sampler, self.threads = networks, sampler, threads

    def see(self, image_rgb: Bytes) -> Pixels:
        """What the pixels of a canonical image show, uint8 [H, W, 3] RGB."""
        return self.networks.see(image_rgb)

    def decode(self, pixels: Pixels, standing: Standing) -> tuple[Floats, PredictedCells, CameraPlace]:
        """Corrected surfaces, as `CellSampler` takes them; what is predicted of cells; and the camera's place."""
        sampler, place = self.sampler, self.sampler.place(standing.upright_from_camera)
        surfaces = standing.surfaces(sampler.spec, sampler.volume.measure, pixels.surfaces)
        with kernel_threads(self.threads):
            given = self.sampler.look_up(surfaces, pixels.context, place)
        seen = self.sampler.seen_ground(surfaces, pixels.classes, place)
        return surfaces, self.networks.complete(*given, seen), place


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """All that depends on a student, a camera, a grid and the pose between them."""

    query: VoxelQuery | CellVoxels  # the student on the grid
    march: March  # the rays through it
    classifier: VoxelClassifier  # the states of its voxels
    labels: LabelQuery | None = None  # their labels, of a field student that has classes


def prepare_scene(
    bundle: StudentBundle,
    grid: VoxelGrid,
    grid_from_camera: RigidTransform,
    coverage: Mask | None = None,  # see `view_of`
) -> PreparedScene:
    """Prepare a grid for a student."""
    place, rays = (grid, grid_from_camera.inverse()), ray_camera(bundle.canonical)
    query: VoxelQuery | CellVoxels
    labels = None
    if bundle.volume is not None:
        sampler = CellSampler(bundle.volume, bundle.canonical, bundle.point_code, bundle.height_above_ground)
        query = CellVoxels(sampler, bundle.point_code, bundle.canonical, *place, coverage=coverage)
    else:
        student = bundle.field_head, bundle.point_code, bundle.canonical, bundle.feature_size
        query = VoxelQuery(*student, *place, coverage=coverage)
        if bundle.label_units:
            labels = LabelQuery(query.field, query.samples, query.in_view.size)
    ground, obstacle = map(bundle.calibration.occupied_from, bundle.thresholds)
    march = March(*place, rays, ground, far=bundle.depth_range[1], obstacle_from=obstacle)
    classifier = VoxelClassifier(*place, rays, query.in_view, bundle.calibration, bundle.thresholds)
    return PreparedScene(query, march, classifier, labels)


class Networks(Protocol):
    """The networks of a student on an engine."""

    name: str

    def scene(self, prepared: PreparedScene) -> "SceneQuery":
        """What answers for a prepared scene; it belongs to the thread of the networks.

        Raises GpuError where the grid is too large for a GPU, or there is not enough memory.
        """
        ...


class DenseField:
    """What is known of all voxels, occupied or not: "alpha" and "probability" are fetched when they are asked for."""

    def __init__(self, fetch: Callable[[str], Floats]) -> None:
        self._fetch = fetch

    @functools.cached_property
    def alpha(self) -> Floats:
        """Opacity over one voxel edge as the network gives it, [X, Y, Z]; 0 outside the view."""
        return self._fetch("alpha")

    @functools.cached_property
    def probability(self) -> Floats:
        """Calibrated, [X, Y, Z]; 0 for unobserved voxels."""
        return self._fetch("probability")


@dataclass(frozen=True, eq=False)
class SceneAnswer:
    """What is known after one image; the arrays are the caller's."""

    occupied: Integers  # flat indices of the N occupied voxels, in order
    # probability, label, confidence: Of these, float32, uint8 and float32 [N].
    probability: Floats
    label: Bytes
    confidence: Floats
    state: Bytes  # uint8 [X, Y, Z], see `VoxelState`
    # depth, transmittance: float32 [h, w], see `MarchResult`.
    depth: Floats
    transmittance: Floats
    dense: DenseField  # what is known of all voxels
    times_ms: dict[str, float]  # milliseconds of encode, query, march, assemble and label
    matches: tuple[PhraseMatches, ...] = ()  # of the query that was asked, a phrase each; none where nothing was asked
    finite: bool = True  # whether what networks gave are numbers
    # The ground, see `PredictedCells`; None where the student does not predict it.
    ground: Floats | None = None


class SceneImage(NamedTuple):
    """An image, and what else a scene is completed by."""

    image_rgb: Bytes  # a canonical image, uint8 [H, W, 3] RGB
    words: Words = NO_WORDS  # what voxels are compared with, in a feature space of the student
    pixels: Pixels | None = None  # what `SceneQuery.see` gave of the image
    standing: Standing | None = None  # of a student that takes evidence


class SceneQuery(Protocol):
    """Answers for one camera, grid and pose in that; belongs to the thread of its networks."""

    def see(self, image_rgb: Bytes) -> Pixels | None:
        """What the pixels of a canonical image show, uint8 [H, W, 3] RGB; None of a field student."""
        ...

    def __call__(self, given: SceneImage) -> SceneAnswer:
        """What is known after an image."""
        ...


# Of what is predicted of cells, besides the logits of hidden voxels, every so many rows are checked for numbers.
OTHERS_LOOKED_AT = 17


class _HostQuery:
    """What follows on the CPU from opacities: rays, states and occupied voxels."""

    def __init__(self, prepared: PreparedScene, threads: int | None) -> None:
        self._prepared, self._threads = prepared, threads

    def _answer(
        self,
        clock: "StageClock",
        alpha: Floats,
        labelled: Callable[[Integers], Labelled],  # of occupied voxels
        sight: Floats | None = None,  # see `March`
        stands: Mask | None = None,  # see `VoxelClassifier`
    ) -> SceneAnswer:
        prepared = self._prepared
        rays = prepared.march(alpha, sight, stands)
        clock.lap("march")
        probability, state = prepared.classifier(alpha, rays.half_distance, stands)
        occupied, of_occupied = occupied_voxels(state, probability)
        clock.lap("assemble")
        found = labelled(occupied)
        clock.lap("label")
        return SceneAnswer(
            occupied=occupied,
            probability=of_occupied,
            label=found.label,
            confidence=found.confidence,
            state=state,
            depth=rays.depth,
            transmittance=rays.transmittance,
            dense=DenseField({"alpha": alpha, "probability": probability}.__getitem__),
            times_ms=clock.laps_ms,
            matches=found.matches,
            finite=bool(np.isfinite(alpha[::8].sum())),  # a quick check
        )


class HostFieldQuery(_HostQuery):
    """The kernels of the CPU behind an encoder that gives its features to the host.

    `threads`: CPU threads of the kernels; None for all that this process may use.
    """

    def __init__(
        self,
        # The map float32 [h, w, C + E] of a canonical image, uint8 [H, W, 3] RGB; overwritten by the next call.
        encode: Callable[[Bytes], Floats],
        prepared: PreparedScene,
        threads: int | None = None,
    ) -> None:
        super().__init__(prepared, threads)
        assert isinstance(prepared.query, VoxelQuery)
        self._encode, self._query = encode, prepared.query

    def see(self, image_rgb: Bytes) -> None:
        """See `SceneQuery`."""

    def __call__(self, given: SceneImage) -> SceneAnswer:
        """See `SceneQuery`."""
        labels, clock = self._prepared.labels, StageClock()
        features = self._encode(given.image_rgb)
        clock.lap("encode")

        def labelled(occupied: Integers) -> Labelled:
            if labels is None:  # every voxel has the only class, of which there is no doubt
                return Labelled(np.zeros(len(occupied), np.uint8), np.ones(len(occupied), np.float32))
            return labels(features, occupied, given.words)

        with kernel_threads(self._threads):
            alpha = self._query.opacity(features)
            clock.lap("query")
            return self._answer(clock, alpha, labelled)


class HostCellQuery(_HostQuery):
    """See, decode and query on the CPU."""

    def __init__(self, networks: CellNetworks, prepared: PreparedScene, threads: int | None = None) -> None:
        super().__init__(prepared, threads)
        assert isinstance(prepared.query, CellVoxels)
        self._query = prepared.query
        decoder = CellDecoder(networks, self._query.sampler, threads)
        self.see, self._decode = decoder.see, decoder.decode

    def __call__(self, given: SceneImage) -> SceneAnswer:
        """See `SceneQuery`."""
        query, rays, clock = self._query, self._prepared.march.camera, StageClock()
        seen = given.pixels or self.see(given.image_rgb)
        assert given.standing is not None
        surfaces, predicted, place = self._decode(seen, given.standing)
        clock.lap("encode")
        with kernel_threads(self._threads):
            alpha, stands = query.opacity(surfaces, predicted, place)
            clock.lap("query")
            inverse = cv2.resize(np.exp(-surfaces[..., 0]), (rays.width, rays.height), interpolation=cv2.INTER_LINEAR)
            depth: Floats = np.asarray(1.0 / inverse, np.float32)
            labels = functools.partial(query.labels, predicted.others, seen.classes, place, words=given.words)
            answer = self._answer(clock, alpha, labels, depth, stands)
        # Kernels limit what they read, so that voxels of numbers that are none would look like others.
        looked_at = surfaces, seen.classes, *predicted._replace(others=predicted.others[::OTHERS_LOOKED_AT])
        finite = answer.finite and bool(np.isfinite(sum(float(part.sum()) for part in looked_at)))
        return replace(answer, finite=finite, ground=predicted.ground.copy())


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


def inverse_distance_samples(count: int, near: float, far: float) -> Doubles:
    """`inverse_distance` at the middles s_i = (i + 1/2) / K: float64 [K], metres."""
    return np.asarray(inverse_distance((np.arange(count) + 0.5) / count, near, far), dtype=np.float64)


def predicted_depth(depth: Floats, canonical: Camera, camera: Camera, pixels: Reals) -> Floats:
    """Predicted z-depth, at pixels of a camera at the place of the canonical one.

    Returns float32 [N], metres: linear in inverse depth between pixels, constant beyond the outer ones. NaN where the
    lens sees no ray. `depth`: of the pixels of the canonical camera, at any size, float32 [h', w']; `canonical`: the
    student's camera; `camera`: any model, same optical frame; `pixels`: pixel coordinates [N, 2] (u, v).
    """
    rays = camera.unproject(np.asarray(pixels, np.float64))
    height, width = depth.shape
    places, _ = canonical.resized(width, height).project(rays)
    size = np.array([width, height])
    inverse = sample_bilinear(1.0 / depth[..., None], (2.0 * np.nan_to_num(places) + 1.0) / size - 1.0)[:, 0]
    return np.where(np.isfinite(rays).all(axis=1), 1.0 / inverse, np.nan).astype(np.float32)
