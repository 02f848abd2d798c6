"""Voxels of the images of one moment become one scene: of several cameras together, and with earlier moments."""

import math
from collections.abc import Sequence

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import UNKNOWN
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.mapping.camera_fusion import fuse_views
from scene_completion_ros.mapping.ground_map import ignored_names
from scene_completion_ros.mapping.temporal_fusion import FusionSettings, SavedMap, TemporalFusion, compile_fusion
from scene_completion_ros.ros.frame import Epoch, NotYetError, Probability, Scene
from scene_completion_ros.ros.health.diagnostics import FusionReport
from scene_completion_ros.ros.health.judgement import FrameCounters, Record
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

# Half-life of what is out of view, as a part of the time after which it is forgotten. At its end a voxel that was as
# sure as can be is about as probable as the thresholds of students.
HALF_LIFE = 0.4
ALONE, STARTED = "published alone", "map started anew"  # keys of warnings


class SceneMemory:
    """Joins scenes with a map of the scenes before them; belongs to the inference thread.

    The map is forgotten in another `Epoch`, and where `TemporalFusion` finds that stamps or poses have jumped. It is
    made for the first image that wants it, and released with the first that does not. `bundle`: the student;
    `counters`: warn of what could not be joined, and of a map that was started anew; `record`: takes note of it.
    """

    def __init__(
        self, grid: VoxelGrid, bundle: StudentBundle, counters: FrameCounters, record: Record[FusionReport]
    ) -> None:
        self._grid, self._bundle, self._counters = grid, bundle, counters
        self._record = record
        self._map: TemporalFusion | None = None
        self._epoch: Epoch | None = None
        self._relabel = False
        self._newest: SemanticVoxels | None = None  # joined last
        self._loaded: tuple[SavedMap, Epoch] | None = None  # what the next scene of that epoch is joined with

    def prepare(self, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Make the map, and compile what fills it, before an image needs them."""
        if parameters.fusion_enabled and self._map is None:
            compile_fusion()
            self._map_for(grid_from_camera, parameters)

    def relabel(self) -> None:
        """Labels have another meaning from the next scene on: those that are remembered are forgotten."""
        self._relabel = True

    def saved(self, frame: str, epoch: Epoch) -> SavedMap:
        """What is remembered of an epoch, in this frame. Raises SceneCompletionError where that is nothing."""
        known = self._map.remembered() if self._map is not None and self._epoch == epoch else None
        if self._newest is None or known is None or not len(known.place):
            cure = "Wait until `images joined` in the part fusion of /diagnostics grows"
            raise SceneCompletionError("no image was joined yet", where="map", cure=cure)
        bundle, voxels = self._bundle, self._newest
        classes = voxels.class_names, voxels.class_colours
        return SavedMap(known, frame, self._grid, *classes, bundle.name, bundle.made_from(), voxels.stamp_ns)

    def load(self, saved: SavedMap, frame: str, class_names: Sequence[str], epoch: Epoch, *, where: str) -> None:
        """Forget the map, and join the next scene, if of this epoch, with a saved one.

        Raises SceneCompletionError, and forgets nothing, unless it fits: see `SavedMap.check_fits`.
        """
        saved.check_fits(frame, self._grid.voxel_size, class_names, where=where)
        self._loaded, self._relabel = (saved, epoch), False
        if self._map is not None:
            self._map.reset()

    def join(self, scene: Scene) -> None:
        """Set the voxels of a scene whose frames are completed: those of its cameras, joined with what is remembered.

        Where they cannot be joined, they are those of this moment alone, which is counted and warned about. The map is
        not asked where that is not wanted, or where the images came before it was. Raises GpuError: what is known of
        all voxels could not be fetched from a GPU.
        """
        parameters = scene.parameters
        scene.voxels, probability = self._of_all_cameras(scene)
        odometry_from_grid = scene.odometry_from_grid
        if not parameters.fusion_enabled:
            self._release()
            return
        if odometry_from_grid is None:
            return
        fusion = self._map_for(scene.voxels.grid_from_camera, parameters)
        if scene.epoch != self._epoch:
            if self._epoch is not None:
                fusion.reset()
                self._record.happened("started", "the node was activated, enabled or reset, or time went back")
            self._epoch = scene.epoch
        if isinstance(odometry_from_grid, NotYetError):
            self._record.happened("alone", str(odometry_from_grid))
            why = f"voxels are those of one image, not joined with earlier ones: {odometry_from_grid}"
            self._counters.warn(ALONE, why)
            return
        if self._loaded is not None:
            (saved, epoch), self._loaded = self._loaded, None
            if epoch == scene.epoch:
                inside = fusion.begin_with(saved.voxels, scene.voxels.stamp_ns, odometry_from_grid)
                why = f"{inside:,} of {len(saved.voxels.place):,} loaded voxels lie in the window around the image"
                self._record.happened("started", why)
                if not inside:
                    self._counters.warn(STARTED, f"{why}: has {saved.frame} begun anew since they were saved?")
        if self._relabel:
            fusion.relabel(label_of_no_class(scene.voxels, parameters))
            self._relabel = False
        fusion.threads = parameters.threads or None
        fused = fusion.fuse(scene.voxels, probability(), odometry_from_grid)
        self._newest = scene.voxels
        if fused.reset:
            self._record.happened("started", fused.reset)
            self._counters.warn(STARTED, f"the node forgets earlier images: {fused.reset}")
        self._record.change(
            joined=self._record.report.joined + 1,
            map_voxels=fusion.memory.weight.size,
            map_mb=fusion.megabytes,
            age_s=fusion.age_s,
            updated=fused.updated,
            entered=fused.entered,
        )
        scene.voxels_of_moment, scene.voxels = scene.voxels, fused.voxels

    def _of_all_cameras(self, scene: Scene) -> tuple[SemanticVoxels, Probability]:
        completions = [frame.completion for frame in scene.frames]
        if len(completions) == 1:
            return completions[0].voxels, lambda: completions[0].probability
        with kernel_threads(scene.parameters.threads or None):
            voxels, probability = fuse_views(
                [completion.voxels for completion in completions],
                [completion.probability for completion in completions],
                self._bundle.threshold,
            )
        return voxels, lambda: probability

    def _map_for(self, grid_from_camera: RigidTransform, parameters: NodeParameters) -> TemporalFusion:
        settings = settings_of(parameters)
        if self._map is not None and self._map.settings != settings:
            self._map = None  # two would need twice the memory
            self._record.happened("started", "its parameters were changed")
        if self._map is None:
            self._map = TemporalFusion(self._grid, grid_from_camera, self._bundle.threshold, settings)
        return self._map

    def _release(self) -> None:
        self._newest = self._loaded = None
        if self._map is not None:
            self._map = None
            self._record.change(map_voxels=0, map_mb=0.0, age_s=0.0, updated=0, entered=0)


def settings_of(parameters: NodeParameters) -> FusionSettings:
    """How long memory lasts. Only what the image sees is seen: nothing is cleared from memory."""
    lasts = parameters.fusion_forget_after or math.inf
    return FusionSettings(seen_for=0.0, forget_after=lasts, half_life=HALF_LIFE * lasts)


def label_of_no_class(voxels: SemanticVoxels, parameters: NodeParameters) -> int:
    """Label of what nobody has named yet: unknown, or a class that is an obstacle, for that is what it may be."""
    names = voxels.class_names
    if UNKNOWN in names:
        return names.index(UNKNOWN)
    ignored = ignored_names(parameters.obstacle_ignored_classes)
    return next((label for label, name in enumerate(names) if name not in ignored), 0)
