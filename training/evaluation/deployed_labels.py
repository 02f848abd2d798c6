"""What a robot says: the labels of a student bundle's voxels, through the completer that the node runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.density_model import reference_camera
from scene_completion_training.evaluation.semantic_evaluation import Naming
from scene_completion_training.evaluation.voxel_truth import VoxelTruth


class DeployedLabels:
    """A student bundle with classes (a `ScoredModel`): occupied from its own threshold on, called by its own names.

    A class counts under its name among the common ones; what is called something else is never right.

    Raises:
        ConfigurationError: None of its classes is one of the common ones.
    """

    namings: tuple[Naming, ...] = ("hungarian", "covering", "majority")

    def __init__(
        self, bundle: StudentBundle, name: str | None = None, *, engine: str = "auto", threads: int | None = None
    ) -> None:
        self.name = name or bundle.name
        self.labels = 1 + len(bundle.class_names)
        self._bundle = bundle
        self._engine, self._threads = engine, threads
        self._completers: dict[tuple[object, ...], Completer] = {}
        common = {name: number for number, name in enumerate(COMMON_CLASSES)}
        self._names = np.array([EMPTY, *(common.get(name, -1) for name in bundle.class_names)], dtype=np.int64)
        if not (self._names > EMPTY).any():
            raise ConfigurationError(
                f"none of its classes ({', '.join(bundle.class_names)}) is one of {', '.join(COMMON_CLASSES[1:])}",
                where=f"bundle {self.name}",
                cure="Name its clusters with scene-completion classes, or score the checkpoint with --checkpoint",
            )

    @staticmethod
    def open(folder: Path, *, engine: str = "auto", threads: int | None = None) -> DeployedLabels:
        """Opens a bundle under the name of its folder.

        Raises:
            BundleError: It is none, or damaged.
            ConfigurationError: None of its classes is a common one.
        """
        return DeployedLabels(StudentBundle.load(folder), folder.resolve().name, engine=engine, threads=threads)

    def names(self, naming: Naming) -> NDArray[np.int64]:
        """The class [labels] of "empty" and of each of its classes, -1 for none; they were named before."""
        return self._names

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Labels of the voxels of a frame: uint8 [X, Y, Z], 0 empty, class k as k + 1."""
        camera = reference_camera(sequence)
        completion = self._completer(sequence, camera, truth).complete(sequence.image(index, camera))
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume[tuple(completion.voxels.index.T)] = 1 + completion.voxels.label
        return volume

    def _completer(self, sequence: PosedSequence, camera: str, truth: VoxelTruth) -> Completer:
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
                threads=self._threads,
            )
        return self._completers[key]
