"""Features of voxels that are probed: what goes into a network, what comes out of it, a student's units, 2D features.

All of them speak of the same voxels of the same frame, so that probes of them can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, reference_camera
from scene_completion_training.foundation.feature_lifter import FeatureLifter, TokenMaps
from scene_completion_training.foundation.targets import FeatureExtractor
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.sampling import sample_levels
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """A scene, and the frame that it is of."""

    sequence: PosedSequence
    index: int
    scene: VoxelScene


class VoxelFeatures(Protocol):
    """Anything that has features of voxels, on one level or on several."""

    @property
    def name(self) -> str:
        """Short name for tables."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, finest first."""

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features of each level, float32 [n, D_l], of the voxels at some rows [n] of the scene; zeros for none."""


class SceneColumns:
    """Columns of the scenes themselves: the inputs of networks, or the label units of a student.

    Args:
        units: The units instead of the inputs.
    """

    def __init__(self, name: str, *, units: bool = False) -> None:
        self.name = name
        self.levels: tuple[str, ...] = (name,)
        self._units = units

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """See `VoxelFeatures`.

        Raises:
            ConfigurationError: The scene was made without units.
        """
        inputs = len(FEATURES)
        chosen = slice(inputs, None) if self._units else slice(inputs)
        found = frame.scene.features[:, chosen]
        if not found.shape[1]:
            raise ConfigurationError(
                "has no label units", where=f"scene {frame.scene.name}", cure="Make the scenes with units of a student"
            )
        return (found[rows],)


class NetworkFeatures:
    """What each level of a `VoxelHUNet` says of voxels, with nothing masked.

    Levels are sampled at the centres of voxels, and each is normalised as in the objective of its training (LayerNorm
    without weights): all levels weigh the same in a cosine.

    Args:
        columns: Features of scenes that the network takes.
    """

    def __init__(self, network: VoxelHUNet, columns: Sequence[str], name: str) -> None:
        self.name = name
        self.levels: tuple[str, ...] = tuple(f"level {number}" for number in range(1, len(network.dims) + 1))
        self.columns = tuple(columns)
        self._network = network.eval()

    @staticmethod
    def random(settings: HUNetSettings, columns: Sequence[str], seed: int, name: str) -> NetworkFeatures:
        """A network of the same size that was never trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VoxelHUNet(settings)
        return NetworkFeatures(network, columns, name)

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """See `VoxelFeatures`.

        Raises:
            ConfigurationError: The scene has not all features that the network takes.
        """
        scene = frame.scene
        if missing := [name for name in self.columns if name not in scene.columns]:
            raise ConfigurationError(
                f"lacks {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}, which {self.name} was trained with",
                where=f"scene {scene.name}",
                cure="Make the scenes with the student and the features of that training",
            )
        place = torch.from_numpy(scene.index.astype(np.int64))
        in_batch = torch.cat([torch.zeros(len(place), 1, dtype=torch.int64), place], dim=1)
        inputs = torch.from_numpy(scene.features[:, [scene.columns.index(name) for name in self.columns]])
        with torch.inference_mode():
            voxels, order = VoxelSet.of(in_batch, scene.shape)
            pyramid = Pyramid.of(voxels, len(self.levels))
            decoded = self._network(inputs[order], pyramid)
            sampled, _ = sample_levels(decoded, pyramid, in_batch[torch.from_numpy(rows)] + _CENTRE)
            return tuple(functional.layer_norm(level, level.shape[1:]).numpy() for level in sampled)


_CENTRE = torch.tensor([0.0, 0.5, 0.5, 0.5])
"""From a voxel (scene, x, y, z) to its centre, in voxels."""


class LiftedFeatures:
    """A control, 2D only: every voxel has the foundation model's feature of its pixel, whatever lies before it.

    Args:
        cell: Edge of the square of pixels that a feature covers.
        camera: The canonical camera; voxels outside its image have no feature.
    """

    def __init__(self, extractor: FeatureExtractor, cell: int, camera: Camera, name: str) -> None:
        self.name = name
        self.levels: tuple[str, ...] = (name,)
        self._extractor, self._cell = extractor, cell
        self._image = CanonicalImages(camera, half_resolution=False)
        self._lifter = FeatureLifter(camera, VOXEL_EDGE, bilinear=True)

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """See `VoxelFeatures`."""
        image = self._image(frame.sequence, frame.index, reference_camera(frame.sequence))[None]
        tokens = self._extractor.features(image, self._cell).float().cpu()
        maps = {self.name: TokenMaps(tokens, torch.zeros(1, 2), self._cell)}
        points = torch.from_numpy(frame.scene.points_camera[rows])
        with torch.inference_mode():
            lifted = self._lifter(points, maps, torch.eye(4)[None], surface=None)
        return (lifted[self.name].mean.numpy(),)
