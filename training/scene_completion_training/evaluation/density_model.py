"""What occupancy is evaluated on: anything that looks at a sequence and then has a density everywhere."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.scene_query import inverse_distance_samples
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, composite, density_of_opacity

VOXEL_EDGE = 0.2  # metres over which opacity is stated: the voxels of all ground truths here
PUBLISHED_CUTOFF = 0.5  # density per metre above which the literature's protocols call a point occupied
PUBLISHED_RULE, CALIBRATED_RULE = "σ > 0.5", "calibrated"
# Cut-offs of semantic completion in their papers' code, per metre.
LITERATURE = {"SceneDINO: σ ≥ 0.2": 0.2, "S4C: σ ≥ 0.25": 0.25}
IDENTITY = Calibration()
_CHUNK = 2048  # rays rendered at a time

DensityFunction: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
DepthFunction: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Observation:
    """A model that has seen its images of one frame."""

    camera: Camera  # the reference camera of the frame, in whose optical frame all points are
    density: DensityFunction  # density per metre [N] at points [N, 3], metres
    depth_range: tuple[float, float] = (3.0, 80.0)  # nearest and farthest sample along a ray, metres
    depth_at: DepthFunction | None = None  # z-depth [N] at pixels [N, 2], metres, of a model that says it itself

    def depth(self, pixels: NDArray[np.float64], *, samples: int = 64) -> NDArray[np.float32]:
        """z-depth of rays through pixels, float32 [N], metres: as the model says it, or rendered from the density.

        Pixels [N, 2] (u, v) of the reference camera may lie outside of the image; samples are even in inverse distance.
        """
        if self.depth_at is not None:
            return self.depth_at(pixels)
        distances = inverse_distance_samples(samples, *self.depth_range)
        depth = np.empty(len(pixels), dtype=np.float32)
        for start in range(0, len(pixels), _CHUNK):
            density, length = self.along_rays(pixels[start : start + _CHUNK], distances)
            depth[start : start + _CHUNK] = composite(density, distances).distance / length
        return depth

    def along_rays(
        self, pixels: NDArray[np.float64], distances: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Density [N, K] at distances [K] along the rays of pixels [N, 2], and their length [N] where z-depth is 1."""
        rays = self.camera.unproject(pixels)
        length = np.linalg.norm(rays, axis=1)
        points = (rays / length[:, None])[:, None, :] * distances[:, None]  # [N, K, 3]
        return self.density(points.reshape(-1, 3).astype(np.float32)).reshape(len(rays), -1), length

    def depth_image(self, stride: int) -> NDArray[np.float32]:
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
    """A density model that several others share, frame by frame: it looks at a frame once.

    What it has seen of the last frame stays, and so does the density of the points asked for last.
    """

    def __init__(self, model: DensityModel) -> None:
        self.name = model.name
        self.cutoffs = model.cutoffs
        self.calibration = model.calibration
        self._model = model
        self._seen: tuple[PosedSequence, int, Observation] | None = None

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Look at a frame, unless it is that of the last call."""
        if self._seen is None or self._seen[0] is not sequence or self._seen[1] != index:
            seen = self._model.observe(sequence, index)
            remembered = dataclasses.replace(seen, density=_remembering_last(seen.density))
            self._seen = sequence, index, remembered
        return self._seen[2]


def _remembering_last(density: DensityFunction) -> DensityFunction:
    last: list[NDArray[np.float32]] = []

    def remembered(points: NDArray[np.float32]) -> NDArray[np.float32]:
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
