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
from scene_completion_ros.scoring.published import PublishedGrid, published_depth

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
        """Score one image.

        `cloud`: published voxels [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame; `depth`:
        published depth float32 [h, w], metres.
        """
        for source in self._sources:
            truth = source.at(stamp_ns, frame_id)
            if truth is not None:
                answer = PublishedAnswer(truth, self._published, cloud, depth, depth_camera)
                self.scores.add(source.name, _Node(), answer)
