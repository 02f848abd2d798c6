"""What `benchmarks.temporal_fusion` compares: answers about the voxels in view, from one frame or from several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.mapping.temporal_fusion import FusionSettings, TemporalFusion
from scene_completion_ros.voxels.semantic_voxels import VoxelState

SUM_LIMIT = 6.0
"""Where sums of log odds are cut: without a limit, nothing that changes could ever be taken back."""


@dataclass(frozen=True, eq=False)
class DrivenFrame:
    """A completed frame and where its grid was."""

    completion: Completion
    odometry_from_grid: RigidTransform

    @property
    def in_view(self) -> NDArray[np.bool_]:
        """Voxels that the frame itself says anything about."""
        return np.asarray(self.completion.voxels.state != VoxelState.UNOBSERVED)


class Answers(Protocol):
    """Something that answers for the voxels of every frame, one frame after the other."""

    def __call__(self, frame: DrivenFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability and whether occupied, [X, Y, Z] each; probability 0 where nothing is said."""


class SingleFrame:
    """The frame alone.

    Args:
        threshold: Probability from which a voxel is occupied.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, frame: DrivenFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What the student says."""
        probability = frame.completion.probability
        return probability, (probability >= self.threshold) & frame.in_view


class Remembering:
    """Controls that keep one grid, moved to each new frame by interpolation.

    Args:
        threshold: Probability from which a voxel is occupied.
        prior: Probability of what nothing is known of.
    """

    def __init__(self, threshold: float, prior: float) -> None:
        self.threshold, self.prior = threshold, prior
        self._last: tuple[NDArray[np.float32], RigidTransform] | None = None

    def __call__(self, frame: DrivenFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Moved memory, joined with the frame."""
        pose = frame.odometry_from_grid
        memory = None
        if self._last is not None:
            memory = moved(self._last[0], frame.completion.voxels.grid, self._last[1].inverse() @ pose)
        answer, kept = self.joined(frame, memory)
        self._last = kept, pose
        answer = np.where(frame.in_view, answer, np.float32(0.0))
        return answer, answer >= self.threshold

    def joined(
        self, frame: DrivenFrame, memory: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The answer, and what is kept for the next frame."""
        raise NotImplementedError


class LastFrame(Remembering):
    """The frame before, moved, and not the frame itself: how much of an answer is memory alone."""

    def joined(
        self, frame: DrivenFrame, memory: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Memory, where there is any."""
        own = np.where(frame.in_view, frame.completion.probability, np.float32(np.nan))
        return own if memory is None else np.where(np.isnan(memory), own, memory), own


class Maximum(Remembering):
    """The largest probability that any frame so far had."""

    def joined(
        self, frame: DrivenFrame, memory: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The larger one."""
        own = np.where(frame.in_view, frame.completion.probability, np.float32(np.nan))
        largest = own if memory is None else np.fmax(own, memory)
        return largest, largest


class Sum(Remembering):
    """Log odds over the prior added up, as if frames were independent."""

    def joined(
        self, frame: DrivenFrame, memory: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bayes' rule."""
        prior = math.log(self.prior / (1.0 - self.prior))
        own = np.clip(log_odds(frame.completion.probability), -SUM_LIMIT, SUM_LIMIT) - prior
        own = np.where(frame.in_view, own, np.float32(0.0))
        total = own if memory is None else own + np.nan_to_num(memory)
        total = np.clip(total, -SUM_LIMIT - prior, SUM_LIMIT - prior)
        return probabilities(total + prior), total.astype(np.float32)


class Fusion:
    """The map of `TemporalFusion`.

    Args:
        threshold: Probability from which a voxel is occupied.
        stretch: Factor by which odometry takes distances for longer than they are.
        turn: Radians a second that odometry turns too much.
    """

    def __init__(self, threshold: float, settings: FusionSettings, *, stretch: float = 1.0, turn: float = 0.0) -> None:
        self.threshold, self.settings = threshold, settings
        self.stretch, self.turn = stretch, turn
        self._map: TemporalFusion | None = None
        self._first_ns = 0

    def __call__(self, frame: DrivenFrame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What frame and map say."""
        voxels = frame.completion.voxels
        if self._map is None:
            self._map = TemporalFusion(voxels.grid, voxels.grid_from_camera, self.threshold, self.settings)
            self._first_ns = voxels.stamp_ns
        pose = self._measured(frame.odometry_from_grid, (voxels.stamp_ns - self._first_ns) / 1e9)
        fused = self._map.fuse(voxels, frame.completion.probability, pose)
        answer = np.where(frame.in_view, probabilities(fused.log_odds), np.float32(0.0))
        return answer, (answer >= self.threshold) & frame.in_view

    def _measured(self, pose: RigidTransform, seconds: float) -> RigidTransform:
        cos, sin = math.cos(self.turn * seconds), math.sin(self.turn * seconds)
        drift = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        return RigidTransform(drift @ pose.rotation, self.stretch * pose.translation)


def moved(values: NDArray[np.float32], grid: VoxelGrid, old_from_new: RigidTransform) -> NDArray[np.float32]:
    """Values [X, Y, Z] of a grid on the same grid elsewhere, linear between centres; NaN where nothing was."""
    first = np.asarray(grid.origin) + 0.5 * grid.voxel_size
    offset = (old_from_new.apply(first) - first) / grid.voxel_size
    return np.asarray(
        affine_transform(values, old_from_new.rotation, offset, order=1, mode="constant", cval=np.nan), dtype=np.float32
    )


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of probabilities [...], infinite for 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probability / (1.0 - probability)), dtype=np.float32)


def probabilities(value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of log odds [...]."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-value)), dtype=np.float32)


class Flicker:
    """How often answers about the same voxel of the odometry frame change between successive frames.

    A voxel of the odometry frame has the answer of the grid's voxel that its centre lies in. It is as large as those of
    the grid, along its axes. Every second one along x and y is looked at. Those count that are in view of both frames.
    They change if one frame's answer is occupied and the other's is free. In a scene in which nothing moves, each
    change is at least one error.

    Attributes:
        counts: int64 [3]: changes, voxels compared, voxels that either frame calls occupied.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(3, dtype=np.int64)
        self._last: NDArray[np.bool_] | None = None

    def update(self, occupied: NDArray[np.bool_], pairs: tuple[NDArray[np.intp], NDArray[np.intp]] | None) -> None:
        """Count a frame after the last one.

        Args:
            occupied: bool [X, Y, Z].
            pairs: `common_voxels` of both frames; None for the first frame of a drive.
        """
        if self._last is not None and pairs is not None:
            before, after = self._last.reshape(-1)[pairs[0]], occupied.reshape(-1)[pairs[1]]
            counted = (before != after).sum(), len(before), (before | after).sum()
            self.counts += np.array(counted, dtype=np.int64)
        self._last = occupied


def common_voxels(first: DrivenFrame, second: DrivenFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Flat indices, in the grids of two frames, of voxels of the odometry frame that are in view of both."""
    grid = second.completion.voxels.grid
    corners = np.array(np.meshgrid(*((0.0, size) for size in grid.shape), indexing="ij")).reshape(3, -1).T
    places = second.odometry_from_grid.apply(corners * grid.voxel_size + grid.origin) / grid.voxel_size
    low, high = np.floor(places.min(axis=0)).astype(int), np.ceil(places.max(axis=0)).astype(int)
    axes = (np.arange(low[axis], high[axis], 2 if axis < 2 else 1) + 0.5 for axis in range(3))
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * grid.voxel_size
    found, known = [], np.ones(len(centres), dtype=bool)
    for frame in (first, second):
        index, inside = grid.index_of(frame.odometry_from_grid.inverse().apply(centres))
        flat = np.ravel_multi_index(tuple(np.where(inside[:, None], index, 0).T), grid.shape)
        known &= inside & frame.in_view.reshape(-1)[flat]
        found.append(flat)
    return found[0][known], found[1][known]
