"""The deployed student: as a density model, and as what its completer says."""

import functools
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, ROOM_CLASSES
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.query_kernel import FieldKernel
from scene_completion_ros.inference.scene_query import said_depth
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.inference.volume_pose import volume_pose
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import mounting, reference_camera
from scene_completion_training.evaluation.density_model import Observation, calibrated_cutoffs, over_voxel_edge

_CHUNK = 1 << 20  # points prepared at a time


class DeployedModel:
    """A student bundle, in tables by its own name unless another is given."""

    def __init__(
        self, bundle: StudentBundle, name: str | None = None, *, engine: str = "auto", threads: int | None = None
    ) -> None:
        self.name = name or bundle.name
        self.bundle = bundle
        self.calibration = over_voxel_edge(bundle.calibration, bundle.grid.voxel_size)
        self.cutoffs = calibrated_cutoffs(self.calibration, bundle.threshold)
        self._threads = threads
        self._encoder = make_encoder(bundle, engine, threads=threads)
        self._field_of = lru_cache(maxsize=4)(self._make_field)
        self._resampler = lru_cache(maxsize=4)(self._make_resampler)

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Encode the reference camera's image of a frame."""
        name = reference_camera(sequence)
        camera = sequence.cameras[name]
        stated = mounting(sequence, name, index) if self.bundle.takes_pose else None
        pose = None if stated is None else volume_pose(stated, self.bundle.height_above_ground).matrix
        field, beside = self._field_of(None if pose is None else tuple(pose.ravel().tolist()))
        encoded = self._encoder.encode(self._resampler(camera)(sequence.image(index, name)), beside)
        depth_at = None
        if encoded.depth is not None:
            depth_at = functools.partial(said_depth, encoded.depth.copy(), self.bundle.canonical, camera)
        density = functools.partial(self._density, field, encoded)
        return Observation(camera, density, self.bundle.depth_range, depth_at)

    def _make_resampler(self, camera: Camera) -> Resampler:
        return Resampler(camera, self.bundle.canonical)

    def _make_field(self, matrix: tuple[float, ...] | None) -> tuple[FieldKernel, dict[str, NDArray[np.float32]]]:
        """The field for a pose of the camera in the student's volume, and what the graph is given of it."""
        pose = None if matrix is None else RigidTransform.from_matrix(np.reshape(matrix, (4, 4)))
        bundle = self.bundle
        limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
        field = FieldKernel(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            np.array([-limit, -limit, low]),
            np.array([limit, limit, high]),
            pose,
        )
        return field, bundle.graph_inputs(pose)

    def _density(self, field: FieldKernel, encoded: EncodedImage, points: NDArray[np.float32]) -> NDArray[np.float32]:
        density = np.empty(len(points), dtype=np.float32)
        for start in range(0, len(points), _CHUNK):
            chunk = points[start : start + _CHUNK].astype(np.float64)
            samples = field.prepare(chunk, np.arange(len(chunk), dtype=np.int32))
            with kernel_threads(self._threads):
                field(encoded.features, samples, density[start : start + len(chunk)], volume=encoded.volume)
        return density


class DeployedLabels:
    """A student bundle with classes (a `ScoredModel`): occupied from its own threshold on, called by its own names.

    It is called like its folder. A class counts under its name among the common ones, or those of rooms, whichever hold
    more of its names; what is called something else is never right. Raises BundleError where the folder holds none, or
    a damaged one; ConfigurationError where none of its classes is one of the common ones.
    """

    def __init__(self, folder: Path, *, engine: str) -> None:
        bundle = open_student(folder)
        self.name = folder.resolve().name
        self.labels = 1 + len(bundle.class_names)
        self._bundle, self._engine = bundle, engine
        self._completers: dict[tuple[object, ...], Completer] = {}
        both = (COMMON_CLASSES, ROOM_CLASSES)
        known = max(both, key=lambda classes: len(set(classes) & set(bundle.class_names)))
        common = {name: number for number, name in enumerate(known)}
        self._names = np.array([EMPTY, *(common.get(name, -1) for name in bundle.class_names)], dtype=np.int64)
        if not (self._names > EMPTY).any():
            what = f"none of its classes ({', '.join(bundle.class_names)}) is one of {', '.join(known[1:])}"
            cure = "Name its clusters with scene-completion classes, or score the checkpoint with --checkpoint"
            raise ConfigurationError(what, where=f"bundle {self.name}", cure=cure)

    def names(self) -> NDArray[np.int64]:
        """The class [labels] of "empty" and of each of its classes, -1 for none; they were named before."""
        return self._names

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Labels of the voxels of a frame: uint8 [X, Y, Z], 0 empty, class k as k + 1."""
        camera = reference_camera(sequence)
        completion = self._completer(sequence, index, camera, truth).complete(sequence.image(index, camera))
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume[tuple(completion.voxels.index.T)] = 1 + completion.voxels.label
        return volume

    def _completer(self, sequence: PosedSequence, index: int, camera: str, truth: VoxelTruth) -> Completer:
        pose = truth.grid_from_camera
        key = (sequence.cameras[camera], truth.grid, pose.rotation.tobytes(), pose.translation.tobytes())
        if key not in self._completers:
            self._completers.clear()  # one at a time: each holds prepared samples of its whole grid
            self._completers[key] = Completer(
                self._bundle,
                sequence.cameras[camera],
                grid=truth.grid,
                grid_from_camera=pose,
                engine=self._engine,
                upright_from_camera=mounting(sequence, camera, index),
            )
        return self._completers[key]
