"""Drives that are completed image by image: single images and the fused map against the truth of each moment."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally, VoxelAnswer
from scene_completion_ros.evaluation.semantic_classes import INVALID
from scene_completion_ros.evaluation.truth import OCCLUDED, VISIBLE, FrameTruth, VoxelTruth, grown
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.temporal_fusion import FusionSettings, TemporalFusion
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_ros.voxels.occupancy import probability_of_log_odds
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from scene_completion_training.arrays import Floats
from scene_completion_training.evaluation.geometry import EmptyControl
from scene_completion_training.evaluation.predictor import Frame, Prediction, Predictor

AGES_S = (0.5, 1.0, 2.0, 5.0)  # where classes of age end, seconds; what left earlier does not count
OUT_OF_VIEW = "out of view"


@dataclass(frozen=True, eq=False)
class MapAnswer:
    """The answer of a method to a frame, and where and when it holds."""

    truth: FrameTruth
    voxels: VoxelAnswer
    stamp_ns: int  # time of the frame, nanoseconds
    world_from_grid: RigidTransform  # pose of the grid of the truth
    depth: None = None


class GhostTally(Tally):
    """Of the voxels that something left, those that are still occupied, by how long ago it left and by what is in view.

    A voxel was left where an earlier frame of the drive has an occupied voxel, by exact truth, whose centre lies in it,
    and it neither is nor touches, by a face, an edge or a corner, what is occupied now: lattices of frames do not
    coincide, so that what stands still changes its voxels, too. Insides of things are left out. A drive ends where
    time goes back.
    """

    def __init__(self, _: object) -> None:
        self._earlier: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._counts: dict[tuple[str, str, float], NDArray[np.int64]] = {}  # rule, region, age -> left, still occupied

    def add(self, answer: MapAnswer) -> None:
        """Count a frame; frames of a drive come in their order. Truth that does not know what is hidden counts not."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or truth.visible is None:
            return
        now, earlier = answer.stamp_ns, self._earlier
        if earlier and now <= earlier[-1][0]:
            earlier.clear()
        while earlier and earlier[0][0] < now - 1e9 * AGES_S[-1]:
            earlier.popleft()
        age = self._ages_s(truth, answer)
        regions = {VISIBLE: truth.in_view & truth.visible, OCCLUDED: truth.in_view & ~truth.visible}
        for region, mask in {**regions, OUT_OF_VIEW: ~truth.in_view}.items():
            for after, until in zip((0.0, *AGES_S), AGES_S, strict=False):
                left = mask & (age > after) & (age <= until)
                for rule, occupied in found.occupied.items():
                    counts = self._counts.setdefault((rule, region, until), np.zeros(2, np.int64))
                    counts += np.count_nonzero(left), np.count_nonzero(left & occupied)
        solid = truth.occupied if truth.interior is None else truth.occupied & ~truth.interior
        centres = np.asarray(truth.grid.origin) + (np.argwhere(solid) + 0.5) * truth.grid.voxel_size
        earlier.append((now, np.asarray(answer.world_from_grid.apply(centres), np.float32)))
        self.frames += 1

    def _ages_s(self, truth: VoxelTruth, answer: MapAnswer) -> NDArray[np.float32]:
        """Seconds since each voxel was left, [X, Y, Z]; 0 where it was not."""
        age = np.zeros(truth.grid.shape, np.float32)
        for stamp_ns, points in self._earlier:  # the newest is written last
            index, inside = truth.grid.index_of(answer.world_from_grid.inverse().apply(points))
            age[tuple(np.asarray(index)[np.asarray(inside)].T)] = (answer.stamp_ns - stamp_ns) / 1e9
        age[~truth.free | grown(truth.occupied)] = 0.0
        return age

    def rows(self) -> Iterator[Row]:
        """By rule, region and age."""
        for (rule, region, age), (left, still) in self._counts.items():
            share = float(still / left) if left else float("nan")
            each = {"left": float(left / self.frames), "ghosts": float(still / self.frames)}
            yield {"rule": rule, "region": region, "age": f"{age:g} s", **each, "still_occupied": share}


GHOSTS = Metric(
    "ghosts",
    "Voxels of a frame that something left within so many seconds, and more than the age before, and that are free and "
    "touch nothing now. Of them the ghosts: those still published as occupied.",
    (
        Column("left", "left", percent=False),
        Column("ghosts", "ghosts", percent=False),
        Column("still_occupied", "still occupied, %"),
    ),
    GhostTally,
    by=("rule", "region"),
    across="age",
)


DECIDED = "decided"  # the rule: what the method calls occupied
NODE = FusionSettings(seen_for=0.0)  # as the node has them by default
SURE = 0.98  # how sure the oracle is


class OneImage:
    """The image of a moment alone, as a student or the truth completes it."""

    name = "one image"

    def __init__(self, source: Predictor) -> None:
        self._source = source

    def answer(self, frame: Frame) -> MapAnswer:
        """What is published of a frame that has voxels; frames of a drive come in their order."""
        completed = self._source.complete(frame.sequence, frame.index).completed
        assert completed is not None
        own, probability, _ = completed(frame.voxels)
        camera = frame.sequence.world_from_camera(frame.index, reference_camera(frame.sequence))
        world_from_grid = camera @ own.grid_from_camera.inverse()
        voxels, probability = self._fused(own, probability, world_from_grid)
        stated = np.where(voxels.state == VoxelState.UNOBSERVED, np.float32(0.0), probability)
        found = VoxelAnswer(stated, {DECIDED: voxels.state >= VoxelState.SURFACE}, {DECIDED: stated})
        return MapAnswer(frame.truth, found, own.stamp_ns, world_from_grid)

    def _fused(
        self, voxels: SemanticVoxels, probability: Floats, world_from_grid: RigidTransform
    ) -> tuple[SemanticVoxels, Floats]:
        return voxels, probability


class FusedMap(OneImage):
    """Images joined with those before them; the map starts anew where time goes back."""

    name = "fused map"
    _map: TemporalFusion | None = None

    def _fused(
        self, voxels: SemanticVoxels, probability: Floats, world_from_grid: RigidTransform
    ) -> tuple[SemanticVoxels, Floats]:
        if self._map is None:
            self._map = TemporalFusion(voxels.grid, voxels.grid_from_camera, self._source.thresholds, NODE)
        fused = self._map.fuse(voxels, probability, world_from_grid)
        return fused.voxels, probability_of_log_odds(fused.log_odds)


class Oracle(Predictor):
    """The truth in place of a student: all that is in view, and what the camera sees of it."""

    name = "truth"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """States the truth with a probability of `SURE`; points have no density."""
        seen = EmptyControl().complete(sequence, index)
        return replace(seen, completed=lambda truth: self._stated(truth, sequence.frames[index].stamp_ns))

    def _stated(self, truth: VoxelTruth, stamp_ns: int) -> tuple[SemanticVoxels, Floats, Floats]:
        states = np.array(
            [[VoxelState.FREE_INFERRED, VoxelState.FREE_SEEN], [VoxelState.COMPLETED, VoxelState.SURFACE]]
        )
        state = states[truth.occupied.astype(int), np.asarray(truth.visible).astype(int)].astype(np.uint8)
        state[~truth.in_view] = VoxelState.UNOBSERVED
        index_of = np.argwhere(state >= VoxelState.SURFACE).astype(np.int32)
        label = truth.class_map.table[truth.labels[tuple(index_of.T)]]
        label[label == INVALID] = truth.class_map.target.index("person")  # riders
        sure, names = np.full(len(index_of), SURE, np.float32), truth.class_map.target
        voxels = SemanticVoxels(
            truth.grid,
            truth.grid_from_camera,
            stamp_ns,
            state,
            index_of,
            sure,
            label,
            sure,
            class_names=names,
            class_colours=((0, 0, 0),) * len(names),
        )
        probability = np.where(truth.occupied, np.float32(SURE), np.float32(1.0 - SURE))
        return voxels, probability, probability
