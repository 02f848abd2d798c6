"""The deployed student as a density model: engine and kernel of the robot, at any points."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.query_kernel import FieldKernel
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.density_model import (
    Observation,
    calibrated_cutoffs,
    over_voxel_edge,
    reference_camera,
)

_CHUNK = 1 << 20  # points prepared at a time


class DeployedModel:
    """A student bundle.

    Args:
        name: Short name for tables; the bundle's by default.
    """

    def __init__(
        self, bundle: StudentBundle, name: str | None = None, *, engine: str = "auto", threads: int | None = None
    ) -> None:
        self.name = name or bundle.name
        self.bundle = bundle
        self.calibration = over_voxel_edge(bundle.calibration, bundle.grid.voxel_size)
        self.cutoffs = calibrated_cutoffs(self.calibration, bundle.threshold)
        self._threads = threads
        self._encoder = make_encoder(bundle, engine, threads=threads)
        limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
        self._field = FieldKernel(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            np.array([-limit, -limit, low]),
            np.array([limit, limit, high]),
        )
        self._resampler = lru_cache(maxsize=4)(self._make_resampler)

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Encode the reference camera's image of a frame."""
        name = reference_camera(sequence)
        camera = sequence.cameras[name]
        features = self._encoder(self._resampler(camera)(sequence.image(index, name)))
        return Observation(camera, lambda points: self._density(features, points), self.bundle.depth_range)

    def _make_resampler(self, camera: Camera) -> Resampler:
        return Resampler(camera, self.bundle.canonical)

    def _density(self, features: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
        density = np.empty(len(points), dtype=np.float32)
        for start in range(0, len(points), _CHUNK):
            chunk = points[start : start + _CHUNK].astype(np.float64)
            samples = self._field.prepare(chunk, np.arange(len(chunk), dtype=np.int32))
            with kernel_threads(self._threads):
                self._field(features, samples, density[start : start + len(chunk)])
        return density
