"""How a field is read at the voxels of a grid: at their centres, or as S4C and SceneDINO read theirs.

Both dilate the density: a voxel is as dense as the densest of its 27 neighbours, itself among them. Its class is its
own. Each point votes for its class, with the opacity of its part of the voxel as weight. Hayler et al., "S4C" (3DV
2024); Jevtić et al., "Feed-Forward SceneDINO" (ICCV 2025).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.evaluation.semantic_models import SemanticObservation

# Codes [N, C] of points -> how much each [N, K] is of each cluster, or of each class without "empty".
Votes: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_CHUNK = 1 << 15  # points whose codes are in memory at a time


@dataclass(frozen=True)
class Sampling:
    """Points of a voxel, and from which density on it is occupied."""

    cutoff: float  # density per metre that an occupied voxel exceeds, or reaches where it is dilated
    points: int = 1  # points along each edge of a voxel, evenly, each in the middle of its part
    dilated: bool = False  # whether the density is that of the densest of the 27 voxels around

    def labels(self, observed: SemanticObservation, votes: Votes, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Labels of the voxels that count: uint8 [X, Y, Z], 0 where nothing is, what is most of k as k + 1."""
        wanted = _around(truth.counted) if self.dilated else truth.counted
        sigma = observed.observation.density(self._points(truth, wanted)).reshape(-1, self.points**3)
        density = np.zeros(truth.grid.shape, np.float32)
        density[wanted] = sigma.max(axis=1)
        reached = dilated(density) >= self.cutoff if self.dilated else density > self.cutoff
        occupied = reached & truth.counted
        weights, step = opacity(sigma[occupied[wanted]], truth.grid.voxel_size / self.points), _CHUNK // self.points**3
        points = self._points(truth, occupied).reshape(*weights.shape, 3)
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume[occupied] = np.concatenate(
            [np.zeros(0, np.uint8)]
            + [
                1 + elected(votes(observed.codes(points[part].reshape(-1, 3))), weights[part])
                for part in (slice(first, first + step) for first in range(0, len(points), step))
            ]
        )
        return volume

    def _points(self, truth: VoxelTruth, voxels: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Points [V · points³, 3] of voxels [X, Y, Z], in their order, metres, optical frame of the camera."""
        part = (np.indices((self.points,) * 3).reshape(3, -1).T + 0.5) / self.points
        place = np.argwhere(voxels)[:, None] + part
        points = np.asarray(truth.grid.origin) + place.reshape(-1, 3) * truth.grid.voxel_size
        return np.asarray(truth.grid_from_camera.inverse().apply(points), np.float32)


SAMPLINGS = {"scenedino": Sampling(0.2, dilated=True), "s4c": Sampling(0.25, points=2, dilated=True)}  # as published


def dilated(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest density [X, Y, Z] of the 3x3x3 voxels around each voxel; there is nothing beyond the grid."""
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(density, size=3, mode="constant"), np.float32)


def elected(votes: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The label [V] that most of the weight of each voxel's points is for, by votes [V · P, K] and weights [V, P].

    Where all weights of a voxel are 0, its points weigh alike.
    """
    weighed = np.where(weights.any(axis=1, keepdims=True), weights, 1.0)
    most = np.einsum("vpk,vp->vk", votes.reshape(*weights.shape, -1), weighed).argmax(axis=1)
    return np.asarray(most, np.uint8)


def _around(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, np.ones((3, 3, 3))), np.bool_)
