"""Two students on the same frames: where they agree, and which of them later frames prove right.

Offline, a stereo pair or the frames around measure the depth that judges. On the robot nobody measures it, and the two
students are their own witnesses. What both of them see alike counts as measured, see `agreed_depth`. Such a witness
favours neither. It says nothing where the two differ, and it is wrong where both are wrong alike.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.label_free import (
    Comparison,
    DepthObservation,
    LabelFreeScores,
    Measure,
    Verdict,
    compare,
    in_sight,
    judge,
    places_along,
)
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

OBSERVERS = 8  # later frames that judge one
SPACING = 3.0 / 51.2  # way between frames that are scored, as a part of the volume's reach: 3 m of a street's 51.2 m
PLACE = 0.5  # length of road that counts as one independent place, as a part of the reach
ALIKE = 0.05  # difference of two depths, as a part of their mean, up to which two students see the same
# Standard deviation of a depth that two students agree on, as a part of it, where they do not differ by more.
DEVIATION = 0.02
MOST_VOXELS = 1 << 17  # voxels of a frame that a robot scores: evenly spread ones of all
MOST_FRAMES = 300  # frames that a robot remembers the scores of
# What a better student has to gain, of average precision or IoU: seeds of one training differ by 0.001 to 0.012.
MARGIN = 0.01
# What says which student is better: how it ranks voxels, and what it calls occupied.
DECIDING: tuple[Measure, ...] = ("average_precision", "iou")


def score_frame(
    scores: Sequence[LabelFreeScores],
    probabilities: Sequence[NDArray[np.float32]],  # of each student, float32 [X, Y, Z]
    own: DepthObservation,  # depth of the frame itself
    later: Iterable[DepthObservation],  # depth of later frames, posed in the grid of this one
    wanted: NDArray[np.bool_],  # voxels that count, bool [X, Y, Z]: those that all students say something of
    *,
    # Predicted and measured depth of each, see `LabelFreeScores.add`.
    depths: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]] | None = None,
    place: Hashable = None,  # see there
) -> Verdict:
    """Scores students on a frame by what it and later ones saw, and says what. Raises GridError: not of the grid."""
    grid = scores[0].grid
    visible, hidden = in_sight(own, grid, wanted)
    verdict = judge([own, *later], grid, visible | hidden)
    for number, (one, probability) in enumerate(zip(scores, probabilities, strict=True)):
        one.add(probability, visible, verdict, depth=None if depths is None else depths[number], place=place)
    return verdict


@dataclass(frozen=True, eq=False)
class StudentAnswer:
    """What a student said of a frame."""

    probability: NDArray[np.float32]  # of the voxels that are compared, float32 [N]
    depth: NDArray[np.float32]  # z-depth [h, w], metres; not finite where a ray ends nowhere
    camera: Camera  # the camera of the depth, at the place of the frame's


@dataclass(frozen=True, eq=False)
class ComparedFrame:
    """A frame that both students completed."""

    stamp_ns: int
    answers: tuple[StudentAnswer, StudentAnswer]
    voxels: NDArray[np.int64]  # flat indices [N] of the voxels that are compared, see `compared_voxels`
    grid_from_camera: RigidTransform
    # Pose of the grid in a frame in which the world stands still; None where nothing says it.
    odometry_from_grid: RigidTransform | None

    def at(self, odometry_from_grid: RigidTransform | None) -> "ComparedFrame":
        """The frame at a pose that became known later."""
        return replace(self, odometry_from_grid=odometry_from_grid)

    @property
    def sight(self) -> NDArray[np.bool_]:
        """Pixels [h, w] of the first student in which any of the two sees something."""
        first, second = self._depths()
        return (first > 0.0) | (second > 0.0)

    def agreed_depth(self, grid_from_camera: RigidTransform | None = None) -> DepthObservation:
        """Mean depth where both students agree, at the first one's rays, from a pose in the judged grid."""
        first, second = self._depths()
        mean, off = 0.5 * (first + second), np.abs(first - second)
        alike = (first > 0.0) & (second > 0.0) & (off <= ALIKE * mean)
        depth = np.where(alike, mean, np.float32(0.0)).astype(np.float32)
        deviation = np.maximum(0.5 * off, DEVIATION * mean).astype(np.float32)
        return DepthObservation(depth, deviation, self.answers[0].camera, grid_from_camera or self.grid_from_camera)

    def _depths(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rays = self.answers[0].camera
        first, second = (depth_at_rays(answer.depth, answer.camera, rays) for answer in self.answers)
        return first, second


def compared_voxels(in_view: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flat indices of some voxels [X, Y, Z]: evenly spread ones, at most `MOST_VOXELS`."""
    step = -(-in_view.size // MOST_VOXELS) | 1  # odd, so that it meets all indices along each axis
    every = np.arange(0, in_view.size, step)
    return every[in_view.reshape(-1)[every]]


@dataclass(frozen=True)
class ComparisonReport:
    """What is known of two students; shares are NaN where nothing was compared."""

    frames: int = 0  # frames that both completed
    occupied_alike: float = float("nan")  # of the voxels that any of the two calls occupied, the share that both do
    # Of the pixels in which any of the two sees something, the share in which both see the same.
    depth_alike: float = float("nan")
    judged: int = 0  # frames that later ones have judged
    voxels: int = 0  # voxels of which they found out what is there
    # The second student against the first, by each of `DECIDING`; none before a frame was judged.
    comparisons: tuple[Comparison, ...] = ()

    @property
    def better(self) -> int | None:
        """The better student, 0 or 1: surely better by one measure and worse by none, by `MARGIN`; None for neither."""
        first = any(found.high < -MARGIN for found in self.comparisons)
        second = any(found.better_by(MARGIN) for found in self.comparisons)
        return None if first == second else int(second)


class StudentComparison:
    """Compares two students while a robot drives, by what later frames see where both see the same.

    Frames a few metres apart wait until `OBSERVERS` later ones have come, or the robot has left their volume. Those of
    a robot that stands still are compared, but judge nothing. Memory is bounded: see `MOST_FRAMES`. `grid`: the voxels
    of all frames; `thresholds`: probability from which a voxel is occupied, of each student.
    """

    def __init__(self, grid: VoxelGrid, thresholds: tuple[float, float]) -> None:
        self._grid, self._thresholds = grid, thresholds
        self._reach = grid.shape[0] * grid.voxel_size
        self._scores = [LabelFreeScores(grid, one, (self._reach,), most_frames=MOST_FRAMES) for one in thresholds]
        self._alike: deque[NDArray[np.int64]] = deque(maxlen=MOST_FRAMES)
        self._waiting: deque[tuple[ComparedFrame, float]] = deque()
        self._way = 0.0
        self._drive = self._frames = self._judged = 0

    def add(self, frame: ComparedFrame) -> None:
        """Compares a frame, and judges earlier ones by it.

        Raises GridError where a depth has another size than its camera.
        """
        self._frames += 1
        self._alike.append(self._agreement(frame))
        if frame.odometry_from_grid is None or not self._has_driven(frame):
            return
        self._waiting.append((frame, self._way))
        while self._waiting and (len(self._waiting) > OBSERVERS or self._way - self._waiting[0][1] >= self._reach):
            self._judge(*self._waiting.popleft())

    def interrupt(self) -> None:
        """What comes from now on has nothing to do with the frames that wait: they stay without a judgement."""
        self._waiting.clear()
        self._drive += 1

    def report(self) -> ComparisonReport:
        """What is known by now."""
        both, either, alike, seen = np.sum(self._alike, axis=0) if self._alike else np.zeros(4)
        comparisons: tuple[Comparison, ...] = ()
        voxels = 0
        if self._judged:
            comparisons = tuple(compare(self._scores[0], self._scores[1], measure) for measure in DECIDING)
            voxels = self._scores[0].compute()["all", self._reach].voxels
        return ComparisonReport(
            self._frames,
            float(both / either) if either else float("nan"),
            float(alike / seen) if seen else float("nan"),
            self._judged,
            voxels,
            comparisons,
        )

    def _agreement(self, frame: ComparedFrame) -> NDArray[np.int64]:
        """Voxels that both and that any call occupied, pixels that both see alike and that any sees: [4]."""
        called = [
            answer.probability >= threshold for answer, threshold in zip(frame.answers, self._thresholds, strict=True)
        ]
        counted = called[0] & called[1], called[0] | called[1], frame.agreed_depth().measured, frame.sight
        return np.array([np.count_nonzero(mask) for mask in counted])

    def _has_driven(self, frame: ComparedFrame) -> bool:
        """Whether the frame is far enough from the last one; where the robot has jumped, earlier ones are forgotten."""
        if not self._waiting:
            return True
        last, way = self._waiting[-1]
        assert last.odometry_from_grid is not None and frame.odometry_from_grid is not None
        step = float(np.linalg.norm((last.odometry_from_grid.inverse() @ frame.odometry_from_grid).translation))
        if step >= self._reach or frame.stamp_ns < last.stamp_ns:
            self.interrupt()
            return True
        if step < SPACING * self._reach:
            return False
        self._way = way + step
        return True

    def _judge(self, frame: ComparedFrame, way: float) -> None:
        assert frame.odometry_from_grid is not None
        here = frame.odometry_from_grid.inverse()
        later = []
        for other, _ in self._waiting:
            assert other.odometry_from_grid is not None
            later.append(other.agreed_depth(here @ other.odometry_from_grid @ other.grid_from_camera))
        wanted = np.zeros(self._grid.shape, np.bool_)
        wanted.reshape(-1)[frame.voxels] = True
        probabilities = []
        for answer in frame.answers:
            dense = np.zeros(self._grid.shape, np.float32)
            dense.reshape(-1)[frame.voxels] = answer.probability
            probabilities.append(dense)
        (number,) = places_along([way], PLACE * self._reach)
        score_frame(self._scores, probabilities, frame.agreed_depth(), later, wanted, place=(self._drive, number))
        self._judged += 1
