"""From one camera image to completed voxels: resample, encode, query, march, assemble, label."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import Encoder, make_encoder
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.jit import kernel_threads
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.march_kernel import March, VoxelClassifier
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.semantic_voxels import SemanticVoxels, VoxelState

# The rays of the march are pixels of about this focal length, or those of the network's image where it is smaller yet.
# At 36 m neighbours are a voxel of 0.2 m apart. What counts as seen depends on them.
RAY_FOCAL = 180.0
# Rays of which at least this part leaves the grid met nothing in it.
LARGEST_TRANSMITTANCE = 0.5
# Less of the canonical image than this makes the network guess from too little.
SMALLEST_COVERAGE = 0.7
# More stretching than this shows the network blurred images, which it was not trained with.
LARGEST_STRETCH = 1.25


@dataclass(frozen=True, eq=False)
class Completion:
    """All that is known after one image.

    Attributes:
        voxels: The result.
        alpha: float32 [X, Y, Z], opacity over one voxel edge as the network gives it; 0 outside the view unless
            extrapolated.
        probability: float32 [X, Y, Z], calibrated; 0 for unobserved voxels.
        depth: float32 [h, w], expected z-depth through the grid, metres; rays that leave the grid end where they
            leave. NaN where the ray misses the grid or the camera's image does not cover the pixel.
        transmittance: float32 [h, w], the part of each ray that left the grid.
        depth_camera: The camera of ``depth``.
        image: uint8 [H, W, 3], the canonical image.
        timings_ms: Milliseconds of resample, encode, query, march, assemble, label (next to none where the student
            knows no classes), and their total.
    """

    voxels: SemanticVoxels
    alpha: NDArray[np.float32]
    probability: NDArray[np.float32]
    depth: NDArray[np.float32]
    transmittance: NDArray[np.float32]
    depth_camera: Camera
    image: NDArray[np.uint8]
    timings_ms: dict[str, float]

    @property
    def shown_depth(self) -> NDArray[np.float32]:
        """Depth [h, w] as REP 118 wants it: +inf (too far) where the ray more likely than not leaves the grid."""
        too_far = (self.transmittance >= LARGEST_TRANSMITTANCE) & ~np.isnan(self.depth)
        return np.where(too_far, np.float32(np.inf), self.depth)


class Completer:
    """Completes the scene in front of one camera.

    All that depends on the camera and the grid is computed here, and everything is run once, so that the first image
    is as fast as any. May be used from any thread, one image at a time.

    Args:
        bundle: The student.
        camera: The camera that takes the images, distortion included.
        grid: Where voxels are wanted; None for the bundle's grid.
        grid_from_camera: Pose of the camera's optical frame in the grid, any rigid transform; None for the bundle's.
        engine: Encoder engine, see `encoder.make_encoder`.
        threads: CPU threads of encoder and kernels; None for all that this process may use.
        extrapolate: Predict opacity outside the view too (it stays unobserved).
        encoder_of: A completer of the same bundle, engine and threads whose encoder this one uses too; both then belong
            to one thread.
        gpu: What TensorRT is asked for, where it runs the encoder.

    Attributes:
        warnings: What about the camera lies outside of what the student was trained for, with numbers.

    Raises:
        CameraError: The camera sees nothing of the canonical image.
        BundleError: The engine cannot run the bundle.
        GpuError: TensorRT was asked for and cannot run, or failed.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        camera: Camera,
        *,
        grid: VoxelGrid | None = None,
        grid_from_camera: RigidTransform | None = None,
        engine: str = "auto",
        threads: int | None = None,
        extrapolate: bool = False,
        encoder_of: Completer | None = None,
        gpu: EngineOptions | None = None,
    ) -> None:
        self.bundle = bundle
        self.camera = camera
        self.grid = bundle.grid if grid is None else grid
        self.threads = threads
        self._extrapolate = extrapolate
        canonical = bundle.canonical
        self._resampler = Resampler(camera, canonical)
        covered: NDArray[np.bool_] = self._resampler.validity
        if not covered.any():
            raise CameraError(
                f"a {camera.width}x{camera.height} camera with fx {camera.fx:.1f}, cx {camera.cx:.1f}, "
                f"cy {camera.cy:.1f} sees nothing of the canonical image",
                where="camera",
                cure="Check the calibration: the principal point must lie near the centre of the image.",
            )
        self.warnings = camera_warnings(bundle, camera, float(covered.mean()))
        stride = max(1, round(canonical.fx / RAY_FOCAL))
        self.depth_camera = canonical.resized(canonical.width // stride, canonical.height // stride)
        self._ray_covered = Resampler(camera, self.depth_camera).validity
        self._encoder: Encoder = (
            encoder_of._encoder if encoder_of else make_encoder(bundle, engine, threads=threads, gpu=gpu)
        )
        self.engine = self._encoder.name
        self._place(bundle.grid_from_camera if grid_from_camera is None else grid_from_camera)
        self.complete(np.zeros((camera.height, camera.width, 3), dtype=np.uint8))

    def placed(self, grid_from_camera: RigidTransform) -> Completer:
        """The completer of the same camera elsewhere in the grid; it shares the encoder with this one.

        Args:
            grid_from_camera: Pose of the camera's optical frame in the grid.
        """
        moved = copy.copy(self)
        moved._place(grid_from_camera)
        return moved

    def _place(self, grid_from_camera: RigidTransform) -> None:
        """Prepare all that depends on the pose."""
        bundle, grid = self.bundle, self.grid
        self.grid_from_camera = grid_from_camera
        camera_from_grid = grid_from_camera.inverse()
        self._query = VoxelQuery(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            grid,
            camera_from_grid,
            extrapolate=self._extrapolate,
            coverage=self._resampler.validity,
        )
        self._label = (
            LabelQuery(self._query.field, self._query.samples, self._query.in_view.size)
            if bundle.head.label_hidden
            else None
        )
        occupied_from = bundle.calibration.occupied_from(bundle.threshold)
        self._march = March(grid, camera_from_grid, self.depth_camera, occupied_from)
        self._classify = VoxelClassifier(
            grid, camera_from_grid, self.depth_camera, self._query.in_view, bundle.calibration, bundle.threshold
        )

    @property
    def in_view(self) -> NDArray[np.bool_]:
        """Voxels, bool [X, Y, Z], that the camera's image covers; all others are unobserved."""
        return self._query.in_view

    def complete(self, image_rgb: NDArray[np.uint8], stamp_ns: int = 0) -> Completion:
        """Completes the scene of one image.

        Args:
            image_rgb: uint8 [H, W, 3] RGB, of the size the camera was calibrated with.
            stamp_ns: Its time, nanoseconds.

        Raises:
            ImageError: The image has another size than the calibration, or is no RGB image.
        """
        clock = _Clock()
        image = self._resampler(image_rgb)
        clock.lap("resample")
        features = self._encoder(image)
        clock.lap("encode")
        with kernel_threads(self.threads):
            alpha = self._query.opacity(features)
            clock.lap("query")
            rays = self._march(alpha)
            clock.lap("march")
            probability, state = self._classify(alpha, rays.half_distance)
            occupied = np.flatnonzero(state.reshape(-1) >= VoxelState.SURFACE)
            clock.lap("assemble")
            label, confidence = self._labels(features, occupied)
            clock.lap("label")
        depth = rays.depth
        depth[~self._ray_covered] = np.nan
        voxels = SemanticVoxels(
            grid=self.grid,
            grid_from_camera=self.grid_from_camera,
            stamp_ns=stamp_ns,
            state=state,
            index=np.stack(np.unravel_index(occupied, state.shape), axis=-1).astype(np.int32),
            probability=probability.reshape(-1)[occupied],
            label=label,
            confidence=confidence,
            class_names=self.bundle.class_names,
            class_colours=self.bundle.class_colours,
        )
        clock.lap("assemble")
        return Completion(
            voxels=voxels,
            alpha=alpha,
            probability=probability,
            depth=depth,
            transmittance=rays.transmittance,
            depth_camera=self.depth_camera,
            image=image,
            timings_ms=clock.total(),
        )

    def _labels(
        self, features: NDArray[np.float32], occupied: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self._label is not None:
            return self._label(features, occupied)
        # Every voxel has the only class, of which there is no doubt.
        return np.zeros(len(occupied), dtype=np.uint8), np.ones(len(occupied), dtype=np.float32)


def camera_warnings(bundle: StudentBundle, camera: Camera, coverage: float) -> list[str]:
    """What about a camera lies outside of what the student was trained for, with numbers.

    Args:
        bundle: The student.
        camera: The camera that takes the images.
        coverage: Part of the canonical image that it covers, 0..1.
    """
    warnings = []
    ratio, (low, high) = camera.fx / camera.width, bundle.focal_range
    if not 0.99 * low <= ratio <= 1.01 * high:
        warnings.append(
            f"focal length / image width is {ratio:.3f}, the student was trained on {low:.3f} to {high:.3f}: "
            "expect worse depth; fine-tune on this camera for metric results"
        )
    stretch = max(bundle.canonical.fx / camera.fx, bundle.canonical.fy / camera.fy)
    if stretch > LARGEST_STRETCH:
        warnings.append(
            f"the image is enlarged {stretch:.2f} times to fit the canonical camera (fx {camera.fx:.0f}, canonical "
            f"{bundle.canonical.fx:.0f}): use a higher resolution or a longer lens"
        )
    if coverage < SMALLEST_COVERAGE:
        warnings.append(
            f"the image covers {100 * coverage:.0f} % of the canonical view ({bundle.canonical.width}x"
            f"{bundle.canonical.height}, fx {bundle.canonical.fx:.0f}): voxels behind the rest stay unobserved"
        )
    return warnings


class _Clock:
    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The time since the last call was spent on something; it may come in several parts."""
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + 1e3 * (now - self._last)
        self._last = now

    def total(self) -> dict[str, float]:
        return {**self._laps, "total": 1e3 * (self._last - self._start)}
