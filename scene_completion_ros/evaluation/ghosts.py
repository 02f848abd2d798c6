"""Ghosts: voxels that something has left, and that a method still calls occupied."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.metric import Answer, Column, Metric, Row, Tally
from scene_completion_ros.evaluation.truth import OCCLUDED, VISIBLE, VoxelTruth, grown
from scene_completion_ros.geometry.transforms import RigidTransform

AGES_S = (0.5, 1.0, 2.0, 5.0)  # where classes of age end, seconds; what left earlier does not count
BESIDE = "out of view"


class PlacedAnswer(Answer, Protocol):
    """An answer that says where and when it holds."""

    @property
    def stamp_ns(self) -> int:
        """Time of the frame, nanoseconds."""

    @property
    def world_from_grid(self) -> RigidTransform:
        """Pose of the grid of the truth."""


class GhostTally(Tally):
    """Of the voxels that something left, those still called occupied, by how long ago it left and by what is in view.

    A voxel was left where an earlier frame of the drive has an occupied voxel, by exact truth, whose centre lies in it,
    and it neither is nor touches, by a face, an edge or a corner, what is occupied now: lattices of frames do not
    coincide, so that what stands still changes its voxels, too. Insides of things are left out. A drive ends where
    time goes back.
    """

    def __init__(self, _: object) -> None:
        self._earlier: deque[tuple[int, NDArray[np.float32]]] = deque()
        self._counts: dict[tuple[str, str, float], NDArray[np.int64]] = {}  # rule, region, age -> left, still occupied

    def add(self, answer: PlacedAnswer) -> None:
        """Count a frame; frames of a drive come in their order. Truth that does not know what is hidden counts not."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None or truth.visible is None:
            return
        now, earlier = answer.stamp_ns, self._earlier
        if earlier and now <= earlier[-1][0]:
            earlier.clear()
        while earlier and earlier[0][0] < now - 1e9 * AGES_S[-1]:
            earlier.popleft()
        age = self._ages_s(truth, answer)
        regions = {VISIBLE: truth.in_view & truth.visible, OCCLUDED: truth.in_view & ~truth.visible}
        for region, mask in {**regions, BESIDE: ~truth.in_view}.items():
            for after, until in zip((0.0, *AGES_S), AGES_S, strict=False):
                left = mask & (age > after) & (age <= until)
                for rule, occupied in found.occupied.items():
                    counts = self._counts.setdefault((rule, region, until), np.zeros(2, np.int64))
                    counts += np.count_nonzero(left), np.count_nonzero(left & occupied)
        solid = truth.occupied if truth.interior is None else truth.occupied & ~truth.interior
        centres = np.asarray(truth.grid.origin) + (np.argwhere(solid) + 0.5) * truth.grid.voxel_size
        earlier.append((now, np.asarray(answer.world_from_grid.apply(centres), np.float32)))
        self.frames += 1

    def _ages_s(self, truth: VoxelTruth, answer: PlacedAnswer) -> NDArray[np.float32]:
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
    "touch nothing now. Of them the ghosts: those still called occupied.",
    (
        Column("left", "left", percent=False),
        Column("ghosts", "ghosts", percent=False),
        Column("still_occupied", "still occupied, %"),
    ),
    GhostTally,
    by=("rule", "region"),
    across="age",
)
