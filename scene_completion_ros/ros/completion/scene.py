"""What became of the images of one moment, and what is remembered of earlier ones that it is joined with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.inference.text_bank import UNKNOWN
from scene_completion_ros.mapping.clearing import clearing_voxels
from scene_completion_ros.mapping.ground_map import ignored_names
from scene_completion_ros.mapping.temporal_fusion import TemporalFusion, compile_fusion
from scene_completion_ros.ros.completion.placements import Placement
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.health.fusion_health import FusionRecord
from scene_completion_ros.ros.inputs.waiting_room import NotYetError
from scene_completion_ros.ros.parameters.fusion import fusion_settings
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


@dataclass(frozen=True, eq=False)
class View:
    """What became of one image.

    Attributes:
        name: Name of its camera; empty where there is one camera only.
        completion: The result.
    """

    name: str
    frame_id: str
    completion: Completion


@dataclass(frozen=True, eq=False)
class Scene:
    """What is published.

    Attributes:
        voxels: Those of the one image, or of several fused.
        placement: Where they lie; where there are several cameras, that of the first view.
        views: At least one.
        now: The voxels of this moment alone, where `voxels` are joined with those of earlier images; otherwise None.
    """

    voxels: SemanticVoxels
    placement: Placement
    views: tuple[View, ...]
    now: SemanticVoxels | None = None

    def clearing_voxels(self) -> SemanticVoxels:
        """The voxels that clearing rays are followed through: what is remembered clears nothing."""
        return self.voxels if self.now is None else clearing_voxels(self.voxels, self.now)


Life: TypeAlias = tuple[int, int]
"""Numbers that are others once everything is to be forgotten: of the activation, and of how often time began anew."""

ALONE, STARTED = "published alone", "map started anew"  # keys of warnings


class SceneMemory:
    """Joins scenes with a map of the scenes before them; belongs to the inference thread.

    The map is forgotten in another `Life`, and where `TemporalFusion` finds that stamps or poses have jumped. It is
    made for the first image that wants it, and released with the first that does not.

    Args:
        threshold: Calibrated probability from which a voxel is occupied.
        counters: Warn of what could not be joined, and of a map that was started anew.
        record: Takes note of it.
    """

    def __init__(self, grid: VoxelGrid, threshold: float, counters: FrameCounters, record: FusionRecord) -> None:
        self._grid = grid
        self._threshold = threshold
        self._counters = counters
        self._record = record
        self._map: TemporalFusion | None = None
        self._life: Life | None = None
        self._relabel = False

    def prepare(self, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Make the map, and compile what fills it, before an image needs them."""
        if parameters.temporal_fusion and self._map is None:
            compile_fusion()
            self._map_for(grid_from_camera, parameters)

    def decide_by(self, threshold: float) -> None:
        """Call voxels occupied from another calibrated probability on: that of another student."""
        self._threshold = threshold
        if self._map is not None:
            self._map.decide_by(threshold)

    def relabel(self) -> None:
        """Labels have another meaning from the next scene on: those that are remembered are forgotten."""
        self._relabel = True

    def join(
        self,
        scene: Scene,
        probability: Callable[[], NDArray[np.float32]],
        odometry_from_grid: RigidTransform | NotYetError | None,
        life: Life,
        parameters: NodeParameters,
    ) -> Scene:
        """A scene, joined with what is remembered.

        Args:
            scene: What the images of one moment became.
            probability: Gives the calibrated probability of all its voxels, float32 [X, Y, Z]; called if joined.
            odometry_from_grid: Pose of the grid in the odometry frame at the stamp of the scene, or why there is none.
                None where the images came before they were to be joined.
            life: See there.
            parameters: Those of the images.

        Returns:
            The scene with joined voxels; as it was where it cannot be joined, which is counted and warned about, or
            where that is not wanted.
        """
        if not parameters.temporal_fusion:
            self._release()
            return scene
        if odometry_from_grid is None:
            return scene
        fusion = self._map_for(scene.voxels.grid_from_camera, parameters)
        if life != self._life:
            if self._life is not None:
                fusion.reset()
                self._record.started("the node was activated, enabled or reset, or time went back")
            self._life = life
        if isinstance(odometry_from_grid, NotYetError):
            self._record.alone(str(odometry_from_grid))
            why = f"voxels are those of one image, not joined with earlier ones: {odometry_from_grid}"
            self._counters.warn(ALONE, why)
            return scene
        if self._relabel:
            fusion.relabel(label_of_no_class(scene.voxels, parameters))
            self._relabel = False
        fusion.threads = parameters.threads or None
        fused = fusion.fuse(scene.voxels, probability(), odometry_from_grid)
        if fused.reset:
            self._record.started(fused.reset)
            self._counters.warn(STARTED, f"the node forgets earlier images: {fused.reset}")
        self._record.joined(
            map_voxels=fusion.memory.weight.size,
            map_mb=fusion.megabytes,
            age_s=fusion.age_s,
            updated=fused.updated,
            entered=fused.entered,
        )
        return replace(scene, voxels=fused.voxels, now=scene.voxels)

    def _map_for(self, grid_from_camera: RigidTransform, parameters: NodeParameters) -> TemporalFusion:
        settings = fusion_settings(parameters)
        if self._map is not None and self._map.settings != settings:
            self._map = None  # two would need twice the memory
            self._record.started("its parameters were changed")
        if self._map is None:
            self._map = TemporalFusion(self._grid, grid_from_camera, self._threshold, settings)
        return self._map

    def _release(self) -> None:
        if self._map is not None:
            self._map = None
            self._record.released()


def label_of_no_class(voxels: SemanticVoxels, parameters: NodeParameters) -> int:
    """Label of what nobody has named yet: unknown, or a class that is an obstacle, for that is what it may be."""
    names = voxels.class_names
    if UNKNOWN in names:
        return names.index(UNKNOWN)
    ignored = ignored_names(parameters.ignored_classes)
    return next((label for label, name in enumerate(names) if name not in ignored), 0)
