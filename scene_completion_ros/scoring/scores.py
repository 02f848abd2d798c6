"""Scores of a replay: what the node published against every ground truth there is, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.depth import DEPTH
from scene_completion_ros.evaluation.metric import Scores, VoxelAnswer
from scene_completion_ros.evaluation.occupancy import OCCUPANCY
from scene_completion_ros.evaluation.truth import FrameTruth, TruthSource
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import nearest_pixels
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

PUBLISHED = "published"  # the rule by which a subscriber calls voxels occupied


class PublishedGrid:
    """Looks up which published voxel the centre of every voxel of a ground truth lies in.

    Where both grids are the same, that is the voxel itself; otherwise edges are off by up to half a voxel.
    """

    def __init__(self, grid: VoxelGrid, grid_from_camera: RigidTransform) -> None:
        self.grid, self.grid_from_camera = grid, grid_from_camera
        self._at: tuple[VoxelGrid, bytes] | None = None
        self._index: NDArray[np.int64] = np.zeros((0, 3), dtype=np.int64)
        self._covered: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def at(self, cloud: NDArray[np.void], grid: VoxelGrid, grid_from_camera: RigidTransform) -> VoxelAnswer:
        """Published voxels at another grid: probability 0 where nothing was published, covered within the node's grid.

        `cloud`: structured array [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame.
        """
        points = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1).astype(np.float64)
        index, inside = self.grid.index_of(self.grid_from_camera.apply(points))
        index = np.asarray(index)[np.asarray(inside)]
        probability = np.zeros(self.grid.shape, dtype=np.float32)
        occupied = np.zeros(self.grid.shape, dtype=bool)
        probability[tuple(index.T)] = cloud["probability"][np.asarray(inside)]
        occupied[tuple(index.T)] = True
        self._look_up(grid, grid_from_camera)
        at = tuple(self._index.T)
        there, holds = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, bool)
        there[self._covered], holds[self._covered] = probability[at], occupied[at]
        return VoxelAnswer(there, {PUBLISHED: holds}, covered=self._covered)

    def _look_up(self, grid: VoxelGrid, grid_from_camera: RigidTransform) -> None:
        wanted = grid, grid_from_camera.matrix.tobytes()
        if self._at == wanted:
            return
        own_from_other = self.grid_from_camera @ grid_from_camera.inverse()
        index, covered = self.grid.index_of(own_from_other.apply(grid.centres().astype(np.float64)))
        self._at, self._covered = wanted, np.asarray(covered)
        self._index = np.asarray(index)[self._covered]


def published_depth(depth: NDArray[np.float32], depth_camera: Camera, camera: Camera) -> NDArray[np.float32]:
    """Depth of the nearest published pixel; both cameras are at the same place and look the same way.

    Returns the same [H, W] of that camera; NaN beside the published image. `depth`: float32 [h, w], metres along the
    optical axis, `+inf` too far, NaN unknown (REP 118); `camera`: camera whose pixels are wanted.
    """
    rows, columns, inside = nearest_pixels(depth_camera, camera)
    return np.where(inside, depth[rows, columns], np.float32(np.nan)).astype(np.float32)


METRICS = (OCCUPANCY, DEPTH)


@dataclass(frozen=True, eq=False)
class PublishedAnswer:
    """What the node published of an image, brought to where a truth lies; see `Answer`."""

    truth: FrameTruth
    grid: PublishedGrid  # that of the node
    cloud: NDArray[np.void]  # published voxels [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame
    published: NDArray[np.float32]  # published depth float32 [h, w], metres
    depth_camera: Camera  # its camera

    @cached_property
    def voxels(self) -> VoxelAnswer | None:
        """The published voxels at those of the truth."""
        truth = self.truth.voxels
        return None if truth is None else self.grid.at(self.cloud, truth.grid, truth.grid_from_camera)

    @cached_property
    def depth(self) -> NDArray[np.float32] | None:
        """The published depth at the pixels of the truth."""
        truth = self.truth.depth
        return None if truth is None else published_depth(self.published, self.depth_camera, truth.camera)


@dataclass(frozen=True)
class _Node:
    name: str = "node"


class ReplayScores:
    """Scores of all images of a replay against every ground truth there is."""

    def __init__(self, sources: Sequence[TruthSource], published: PublishedGrid) -> None:
        self.scores = Scores(METRICS)  # by the names of the ground truths
        self._sources, self._published = sources, published

    def add(
        self, cloud: NDArray[np.void], depth: NDArray[np.float32], depth_camera: Camera, *, stamp_ns: int, frame_id: str
    ) -> None:
        """Score `cloud` [N], `VOXEL_CLOUD_DTYPE`, optical frame, and `depth` float32 [h, w], metres, of an image."""
        for source in self._sources:
            truth = source.at(stamp_ns, frame_id)
            if truth is not None:
                answer = PublishedAnswer(truth, self._published, cloud, depth, depth_camera)
                self.scores.add(source.name, _Node(), answer)
