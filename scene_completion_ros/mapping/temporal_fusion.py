"""Fusion of the completed voxels of successive images into one map that follows the robot.

Off by default. A map in an odometry frame remembers what was seen before. It joins each new image with
that (see `evidence`) and answers on the image's own grid. So readers of the voxels of one image can
read fused ones as well. Work and traffic of a frame grow with its voxels and with those that enter the box, not with
the box.
"""

import itertools
import math
from dataclasses import dataclass, replace
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.mapping.evidence import (
    HEARSAY,
    NEVER,
    FrameEvidence,
    Fused,
    Rules,
    VoxelMemory,
    integrate,
    recall,
    thresholds_of,
)
from scene_completion_ros.voxels.occupancy import Thresholds, log_odds_of_probability, probability_of_log_odds
from scene_completion_ros.voxels.occupancy_kernel import axis_indices, occupied_voxels
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

# How much the tilt of a grid may change while driving, radians: slopes, and a vehicle that nods.
LARGEST_TILT = math.radians(3.0)


class RollingGrid:
    """A box of voxels that follows the robot through an odometry frame without copying what stays in it.

    The voxels of the odometry frame are numbered without end: voxel g reaches from g * edge to (g + 1) * edge along
    each axis. The box holds those from `lower` to `lower + shape - 1`; `shape`: voxels along x, y, z. Voxel g lies
    at `g mod shape` in memory, whatever else the box holds. Where the box moves, voxels that stay keep their place.
    One that enters gets the place of one that leaves.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = np.array(shape, dtype=np.int64)  # int64 [3]
        self.lower = np.zeros(3, dtype=np.int64)  # int64 [3], number of the lowest voxel that the box holds

    def move_to(self, lower: NDArray[np.int64]) -> list[tuple[slice, slice, slice]]:
        """Let the box hold the voxels from `lower` on. `lower`: int64 [3].

        Returns the places in memory that now stand for other voxels than before, as disjoint boxes: they are to be
        cleared. All of memory where old and new box have no voxel in common.
        """
        step, self.lower = lower - self.lower, lower.copy()
        if (np.abs(step) >= self.shape).any():
            x, y, z = (slice(0, int(size)) for size in self.shape)
            return [(x, y, z)]
        entered: list[tuple[slice, slice, slice]] = []
        kept: list[list[slice]] = [[slice(0, int(size))] for size in self.shape]
        for axis in range(3):
            first = lower[axis] + (self.shape[axis] - step[axis] if step[axis] > 0 else 0)
            new = self._places(axis, int(first), abs(int(step[axis])))
            old = self._places(axis, int(first) + abs(int(step[axis])), int(self.shape[axis]) - abs(int(step[axis])))
            entered += itertools.product(*kept[:axis], new, *kept[axis + 1 :])  # type: ignore[arg-type]  # three slices
            kept[axis] = old
        return entered

    def _places(self, axis: int, first: int, count: int) -> list[slice]:
        """Where `count` voxels along an axis lie in memory, from number `first` on: at most two runs."""
        size = int(self.shape[axis])
        start = first % size
        runs = [slice(start, min(start + count, size)), slice(0, start + count - size)]
        return [run for run in runs if run.stop > run.start]


def covering_shape(grid: VoxelGrid, tilt: float = LARGEST_TILT) -> tuple[int, int, int]:
    """Shape of a box around the middle of a grid that holds all of it, whatever its heading.

    `grid`: the voxel grid; its z axis is up; `tilt`: angle up to which its z axis may differ from that of the odometry
    frame, radians. Of grids that are tilted more, the outermost voxels lie outside of the box: nothing is remembered
    there.
    """
    x, y, z = grid.shape
    across = math.hypot(x, y)
    height = z * math.cos(tilt) + across * math.sin(tilt)
    wide, high = (math.ceil(length) + 2 for length in (math.hypot(across, z * math.sin(tilt)), height))
    return wide, wide, high


def lower_around(grid: VoxelGrid, odometry_from_grid: RigidTransform, shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lowest voxel of the box of a shape, int64 [3], whose middle is the middle of a grid."""
    middle = np.asarray(grid.origin) + 0.5 * grid.voxel_size * np.asarray(grid.shape)
    numbered: NDArray[np.float64] = np.floor(odometry_from_grid.apply(middle) / grid.voxel_size)
    return numbered.astype(np.int64) - shape // 2


MOVABLE = frozenset(  # names of classes that may move
    ("car", "truck", "bus", "train", "other-vehicle", "bicycle", "motorcycle", "person", "rider", "animal")
)
_LARGEST_CLOCK = 2**30  # milliseconds from the first frame: 12 days, far from where int32 ends
_TURN_SLACK = 0.02  # radians that poses of one instant may differ
_FALL = 3  # power of the distance with which memory counts less beyond reach
_HALF_LIVES = 64  # after which nothing is left of a weight
_CAMERA_SLACK = 0.5  # metres that a camera may move in its grid before distances from it are computed anew


@dataclass(frozen=True)
class FusionSettings:
    """How much memory counts, and for how long. Chosen on validation towns of the street world."""

    # Largest weight n of memory against a frame that sees a voxel, in such frames, within reach. After a change, what
    # was before has the part `(n / (n + 1)) ** k` of the log odds after k frames. With 1, that is a half after one
    # frame and an eighth after three.
    seen_frames: float = 1.0
    inferred_weight: float = 0.3  # weight w of a frame where it infers a voxel, relative to one that sees it
    # Largest weight n of memory against a frame that infers a voxel, in frames that see it. What was before has the
    # part (n / (n + w)) ** k after k such frames: with 2 and 0.3, a half after five.
    inferred_frames: float = 2.0
    # Largest weight n of memory against any frame where memory or that frame names a class of `MOVABLE`.
    movable_frames: float = 0.25
    # Distance from the camera up to which memory counts fully, metres. Beyond it the two largest weights fall with the
    # third power of the distance.
    reach: float = 20.0
    largest_log_odds: float = 4.0  # evidence of one frame is cut here: no frame is certain
    prior: float = 0.08  # probability of being occupied of what is unknown; what lies out of view fades to it
    half_life: float = 2.0  # seconds out of view in which memory loses half its weight, and half of its log odds
    # Seconds after which a voxel that is out of view is unobserved again; infinity for never.
    forget_after: float = 5.0
    # Seconds for which a voxel that was seen, and is hidden or out of view now, still counts as seen. Seen free space
    # may clear a costmap: keep this short where things move.
    seen_for: float = 0.5
    # Metres a second; a camera that is farther from its last place is a jump of the odometry.
    largest_speed: float = 60.0
    largest_turn: float = 6.0  # radians a second; one that has turned more since the last frame is one, too
    largest_gap: float = 2.0  # seconds between two frames after which the map starts anew


def rules_of(
    settings: FusionSettings,
    thresholds: Thresholds,  # probabilities
    movable: NDArray[np.bool_] | None = None,
    class_names: tuple[str, ...] = (),  # names of labels
) -> Rules:
    """Settings as kernels take them. `movable`: by label, bool [256]; None for no label."""
    forget_after = round(1e3 * min(settings.forget_after, 1e-3 * -NEVER))
    lasting = 0 if math.isinf(settings.half_life) else round(1e3 * _HALF_LIVES * settings.half_life)
    ages = np.arange(min(forget_after, lasting) + 1)
    return Rules(
        threshold=_log_odds(thresholds.ground),
        thresholds=thresholds_of(Thresholds(*map(_log_odds, thresholds)), class_names),
        least=_log_odds(min(thresholds)),
        prior=_log_odds(settings.prior),
        inferred_weight=settings.inferred_weight,
        seen_limit=settings.seen_frames,
        inferred_limit=settings.inferred_frames,
        movable_limit=settings.movable_frames,
        movable=np.zeros(256, dtype=bool) if movable is None else movable,
        seen_for=round(1e3 * settings.seen_for),
        fades=(0.5 ** (ages / (1e3 * settings.half_life))).astype(np.float32),
        forget_after=forget_after,
    )


def _log_odds(probability: float) -> float:
    if probability >= 1.0 or probability <= 0.0:
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))


@dataclass(frozen=True, eq=False)
class FusedFrame:
    """A frame joined with the map."""

    # On the grid of the frame, with its stamp. Voxels out of view are remembered ones. The probability is that of the
    # mean log odds; a calibration that was fitted to single frames holds for it only roughly.
    voxels: SemanticVoxels
    log_odds: NDArray[np.float32]  # float32 [X, Y, Z], of every voxel; minus infinity where unobserved
    reset: str  # why the map was started anew before this frame; empty where it was not


class TemporalFusion:
    """A map of what was seen, and what comes of joining images with it.

    Memory is allocated once: 22 bytes a voxel of a box that holds the grid at any heading, 155 MB for the default grid.
    Where the first frame, or the first after a reset, shows the grid tilted (a camera that looks down), the box becomes
    higher. One image at a time; any thread.
    """

    def __init__(
        self,
        grid: VoxelGrid,  # the grid of the voxels, z up
        # Pose of the camera in it: memory counts less the farther away a voxel is. It is followed where frames have
        # another one.
        grid_from_camera: RigidTransform,
        thresholds: Thresholds,  # those of the student bundle
        settings: FusionSettings | None = None,
        *,
        threads: int | None = None,  # CPU threads; None for all that this process may use
    ) -> None:
        self.grid = grid
        self.settings = settings = FusionSettings() if settings is None else settings
        self.threads = threads
        self.box = RollingGrid(covering_shape(grid))  # where in the odometry frame the map is
        self.memory = empty_memory(tuple(self.box.shape))  # type: ignore[arg-type]  # three axes
        self._movable = np.zeros(256, dtype=bool)  # by label of the last frame
        self._rules = rules_of(settings, thresholds, self._movable)
        self._thresholds = Thresholds(*map(_log_odds, thresholds))
        self._look_from(grid_from_camera)
        self._label = np.zeros(grid.shape, dtype=np.uint8)
        self._confidence = np.zeros(grid.shape, dtype=np.float32)
        self._first_ns = 0
        self._last: tuple[int, RigidTransform] | None = None

    @property
    def age_s(self) -> float:
        """Seconds between the first and the last frame that it remembers, by their stamps; 0 where there is none."""
        return 0.0 if self._last is None else (self._last[0] - self._first_ns) / 1e9

    @property
    def megabytes(self) -> float:
        """What it takes, 10^6 bytes."""
        return sum(array.nbytes for array in self.memory) / 1e6

    def reset(self) -> None:
        """Forget everything."""
        _clear(self.memory, ...)
        self._last = None

    def relabel(self, label: int) -> None:
        """Forget the labels of all that is remembered: labels have another meaning from now on. Occupancy stays.

        `label`: what remembered voxels count as, with next to no confidence, until a frame classifies them.
        """
        self.memory.label[...] = label
        self.memory.agreement[...] = HEARSAY

    def fuse(
        self, voxels: SemanticVoxels, probability: NDArray[np.float32], odometry_from_grid: RigidTransform
    ) -> FusedFrame:
        """Join a frame with the map, and remember it.

        The map starts anew, with the reason in the result, where stamps go back or stay away for too long. It also does
        where the pose is farther from the last one than the robot can drive. `voxels`: those of one image;
        `probability`: float32 [X, Y, Z], `Completion.probability`, calibrated. What is no number counts as the prior.
        `odometry_from_grid`: pose of the grid at the stamp of the image, in a frame with z up that is continuous. That
        is odometry, not a map that jumps when a loop is closed.
        """
        assert voxels.grid == self.grid and probability.shape == self.grid.shape
        if np.linalg.norm(voxels.grid_from_camera.translation - self._camera) > _CAMERA_SLACK:
            self._look_from(voxels.grid_from_camera)
        reason = self._reason_for_reset(voxels.stamp_ns, odometry_from_grid)
        if reason:
            self.reset()
        if self._last is None:
            self._first_ns = voxels.stamp_ns
            self._begin(odometry_from_grid)
        self._last = voxels.stamp_ns, odometry_from_grid
        for places in self.box.move_to(lower_around(self.grid, odometry_from_grid, self.box.shape)):
            _clear(self.memory, places)

        turn = np.ascontiguousarray(odometry_from_grid.rotation)
        corner = odometry_from_grid.apply(np.asarray(self.grid.origin))
        shift = corner / self.grid.voxel_size - self.box.lower
        now = (voxels.stamp_ns - self._first_ns) // 1_000_000
        self._movable[: len(voxels.class_names)] = [name in MOVABLE for name in voxels.class_names]
        self._rules.thresholds[:] = thresholds_of(self._thresholds, voxels.class_names)
        frame = self._evidence(voxels, probability)
        fused = Fused(*(np.empty(self.grid.shape, kind) for kind in (np.float32, np.uint8, np.uint8, np.float32)))
        with kernel_threads(self.threads):
            recall(self.memory, self.box.lower, turn, shift, frame, self._rules, now, fused)
            integrate(self.memory, self.box.lower, turn, shift, frame, self._rules, now)
            return FusedFrame(_voxels_of(fused, voxels), fused.log_odds, reason)

    def _look_from(self, grid_from_camera: RigidTransform) -> None:
        self._camera = np.array(grid_from_camera.translation)
        distance = np.linalg.norm(self.grid.centres() - self._camera.astype(np.float32), axis=-1)
        nearness = np.minimum(1.0, self.settings.reach / np.maximum(distance, 1e-3)) ** _FALL
        self._nearness: NDArray[np.float32] = nearness.astype(np.float32)

    def _evidence(self, voxels: SemanticVoxels, probability: NDArray[np.float32]) -> FrameEvidence:
        limit = np.float32(self.settings.largest_log_odds)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_odds = log_odds_of_probability(probability)
        occupied = tuple(voxels.index.T)
        # Memory takes a label of no confidence at all for none, and class 0 for that.
        self._label[occupied], self._confidence[occupied] = voxels.label, np.maximum(voxels.confidence, HEARSAY)
        evidence = np.clip(log_odds, -limit, limit).astype(np.float32, copy=False)
        evidence[np.isnan(evidence)] = self._rules.prior  # an unknown value must not stay in memory
        return FrameEvidence(evidence, voxels.state, self._label, self._confidence, self._nearness)

    def _begin(self, pose: RigidTransform) -> None:
        """Put the empty box around a grid, and make it high enough for one that is tilted, as its camera may be."""
        tilt = math.acos(min(max(float(pose.rotation[2, 2]), -1.0), 1.0))
        shape = covering_shape(self.grid, tilt + LARGEST_TILT)
        if tilt > 0.5 * LARGEST_TILT and (np.array(shape) > self.box.shape).any():
            self.box = RollingGrid(shape)
            self.memory = empty_memory(shape)
        self.box.lower = lower_around(self.grid, pose, self.box.shape)

    def _reason_for_reset(self, stamp_ns: int, pose: RigidTransform) -> str:
        """Why what is remembered has nothing to do with a frame; empty where it has."""
        if self._last is None:
            return ""
        settings, (last_ns, last_pose) = self.settings, self._last
        seconds = (stamp_ns - last_ns) / 1e9
        if seconds < 0.0:
            return f"the clock went back by {-seconds:.3f} s"
        if seconds > settings.largest_gap:
            return f"no frame for {seconds:.1f} s, more than {settings.largest_gap:g} s"
        if stamp_ns - self._first_ns > _LARGEST_CLOCK * 1_000_000:
            return f"the map is {(stamp_ns - self._first_ns) / 86400e9:.0f} days old"
        step = last_pose.inverse() @ pose
        driven = float(np.linalg.norm(step.apply(self._camera) - self._camera))
        if driven > settings.largest_speed * seconds + self.grid.voxel_size:
            return f"the pose jumped by {driven:.2f} m in {seconds:.3f} s, more than {settings.largest_speed:g} m/s"
        turned = math.acos(min(max((float(np.trace(step.rotation)) - 1.0) / 2.0, -1.0), 1.0))
        if turned > settings.largest_turn * seconds + _TURN_SLACK:
            return f"the pose turned by {turned:.2f} rad in {seconds:.3f} s, more than {settings.largest_turn:g} rad/s"
        lower = lower_around(self.grid, pose, self.box.shape)
        if (np.abs(lower - self.box.lower) >= self.box.shape).any():
            return f"the pose lies outside of the map, {driven:.1f} m from the last one"
        return ""


def compile_fusion() -> None:
    """Have the kernels compiled, which takes seconds where they are in no cache, before a frame needs them."""
    grid, nowhere = VoxelGrid((0.0, 0.0, 0.0), 1.0, (2, 2, 2)), RigidTransform.identity()
    fusion, nothing = TemporalFusion(grid, nowhere, Thresholds(0.5, 0.5), threads=1), SemanticVoxels.nothing(grid)
    fusion.fuse(nothing, np.zeros(grid.shape, dtype=np.float32), nowhere)


def empty_memory(shape: tuple[int, int, int]) -> VoxelMemory:
    """Memory of voxels of which nothing is known."""
    kinds = np.float32, np.float32, np.int32, np.int32, np.uint8, np.uint8, np.float32
    memory = VoxelMemory(*(np.empty(shape, kind) for kind in kinds))
    _clear(memory, ...)
    return memory


def _clear(memory: VoxelMemory, places: tuple[slice, slice, slice] | EllipsisType) -> None:
    for array in memory:
        array[places] = 0
    memory.observed[places] = NEVER
    memory.seen[places] = NEVER


def _voxels_of(fused: Fused, frame: SemanticVoxels) -> SemanticVoxels:
    occupied, log_odds = occupied_voxels(fused.state, fused.log_odds)
    return replace(
        frame,
        state=fused.state,
        index=axis_indices(occupied, frame.grid.shape),
        probability=probability_of_log_odds(log_odds),
        label=fused.label.reshape(-1)[occupied],
        confidence=fused.confidence.reshape(-1)[occupied],
    )
