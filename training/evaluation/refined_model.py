"""A deployed student whose candidates a network of voxels has looked at: a density model like any other."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, GridError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import Calibration, density_of_opacity, opacity
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.evaluation.density_model import (
    CALIBRATED_RULE,
    VOXEL_EDGE,
    DensityFunction,
    Observation,
    RememberedDensity,
    calibrated_cutoffs,
)
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.masked_scene.labels import LabelHead, joined, refined_probability
from scene_completion_training.masked_scene.network import SceneRecord, open_network
from scene_completion_training.masked_scene.objective import SceneView
from scene_completion_training.masked_scene.scenes import SceneMaker, VoxelScene
from scene_completion_training.sparse.hu_net import VoxelHUNet

STATED = Calibration("piecewise_linear", (0.0, 1.0), (0.0, 1.0))
"""Of a model whose opacity over `VOXEL_EDGE` is a calibrated probability."""


class Candidates:
    """What a student says of a frame, and the scene of its candidates; several refiners may share it.

    It looks at a frame once, as long as the same is asked for.

    Args:
        units: The refiners know the student's label units.
        threshold: Calibrated probability from which a voxel is a candidate; the student's own where it is None.
        threads: CPU threads of the student; None for all.
    """

    def __init__(self, student: StudentBundle, *, units: bool, threshold: float | None, threads: int | None) -> None:
        self.student = student
        self._deployed = RememberedDensity(DeployedModel(student, threads=threads))
        self._make = functools.partial(
            SceneMaker, kind="predicted", student=student, units=units, threshold=threshold, threads=threads
        )
        self._maker: SceneMaker | None = None
        self._scene: tuple[int, VoxelScene | None] = (-1, None)

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def of(student: str, units: bool, threshold: float | None, threads: int | None) -> Candidates:
        """Those of a student that is named as in configurations."""
        return Candidates(open_student(student), units=units, threshold=threshold, threads=threads)

    def probability(self, seen: Observation) -> DensityFunction:
        """The student's calibrated probability [N] of points [N, 3]."""
        return lambda points: self._deployed.calibration.apply(opacity(seen.density(points), VOXEL_EDGE))

    def observe(self, sequence: PosedSequence, index: int) -> tuple[Observation, VoxelScene | None]:
        """What the student sees of a frame, and its candidates; None where there is none."""
        if self._maker is None or self._maker.sequence is not sequence:
            self._maker, self._scene = self._make(sequence), (-1, None)
        if self._scene[0] != index:
            scene = None
            with contextlib.suppress(GridError):
                scene = self._maker.scene(index)
            self._scene = index, scene
        return self._deployed.observe(sequence, index), self._scene[1]


class RefinedModel:
    """A student's calibrated probabilities, corrected in the candidate voxels of a frame.

    Its opacity over `VOXEL_EDGE` is the probability itself, corrected or not: all voxels are ranked on one scale. A
    point gets the correction of the voxel it lies in. Depth is the student's own.

    Args:
        candidates: Of the student.
        network: It looks at them.
        head: It says the corrections.
        record: The scenes that both were trained on.
    """

    def __init__(
        self, candidates: Candidates, network: VoxelHUNet, head: LabelHead, record: SceneRecord, name: str
    ) -> None:
        self.name = name
        self.calibration = STATED
        self.cutoffs = {CALIBRATED_RULE: calibrated_cutoffs(STATED, candidates.student.threshold)[CALIBRATED_RULE]}
        self._candidates, self._network, self._head, self._record = candidates, network.eval(), head.eval(), record

    @staticmethod
    def open(file: Path, name: str, *, threads: int | None = None) -> RefinedModel:
        """Opens a checkpoint of stage `supervised_scene` with the student that it was trained to refine.

        Raises:
            BundleError: It is none, or has learned classes; or the student cannot be opened.
        """
        network, record = open_network(file)
        stored = Checkpoint.read(file)
        if stored.configuration.get("target") != "occupancy":
            raise BundleError(
                f"its stage is {stored.stage}, and it refines no student",
                where=str(file),
                cure='Name the checkpoint of a training with stage `supervised_scene` and target: "occupancy"',
            )
        head = LabelHead(sum(network.dims), "occupancy")
        head.load_state_dict(dict(stored.head))
        threshold = stored.configuration["data"]["threshold"]
        return RefinedModel(
            Candidates.of(record.student, record.units, threshold, threads), network, head, record, name
        )

    def observe(self, sequence: PosedSequence, index: int) -> Observation:
        """Look at the reference camera's image of a frame, and then at the candidates."""
        seen, scene = self._candidates.observe(sequence, index)
        probability = self._candidates.probability(seen)
        if scene is not None:
            probability = self._refined(scene, probability)
        return Observation(
            seen.camera,
            lambda points: np.asarray(density_of_opacity(probability(points), VOXEL_EDGE), np.float32),
            seen.depth_range,
            seen.depth,
        )

    def _refined(self, scene: VoxelScene, stated: DensityFunction) -> DensityFunction:
        """The stated probability of points, corrected where they lie in voxels of the scene."""
        correction = np.full(scene.shape, np.nan, np.float32)
        correction[tuple(scene.index.T)] = self.corrections(scene)

        def probability(points: NDArray[np.float32]) -> NDArray[np.float32]:
            said = stated(points)
            voxels, inside = scene.grid.index_of(scene.grid_from_camera.apply(points.astype(np.float64)))
            added = np.full(len(points), np.nan, np.float32)
            added[inside] = correction[tuple(voxels[inside].T)]
            candidates = ~np.isnan(added)
            said[candidates] = refined_probability(said[candidates], added[candidates])
            return said

        return probability

    def corrections(self, scene: VoxelScene) -> NDArray[np.float32]:
        """What is added to the log odds of each voxel of a scene, float32 [N].

        Raises:
            ConfigurationError: The scene is none that the network can look at.
        """
        self._record.check(scene)
        index = torch.nn.functional.pad(torch.from_numpy(scene.index.astype(np.int64)), (1, 0))
        view = SceneView(index, torch.from_numpy(scene.features), scene.shape, len(self._network.dims))
        with torch.inference_mode():
            answer = self._head(joined(self._network(view.features, view.pyramid), view, index))
        return np.asarray(answer[:, 0].numpy(), np.float32)
