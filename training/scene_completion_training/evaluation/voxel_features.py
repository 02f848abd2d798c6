"""Features of voxels that are probed: what goes into a network, what comes out of it, a student's units.

All of them speak of the same voxels of the same frame, so that probes of them can be compared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.masked_scene.network import SceneRecord, open_network, scene_voxels
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene
from scene_completion_training.sparse.hu_net import VoxelHUNet
from scene_completion_training.sparse.sampling import sample_levels


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

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features of each level, float32 [n, D_l], of the voxels at some rows [n] of the scene; zeros for none."""


class SceneColumns:
    """Columns of the scenes themselves: the inputs of networks, or the label units of a student.

    Args:
        units: The units instead of the inputs.
    """

    def __init__(self, name: str, *, units: bool = False) -> None:
        self.name = name
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
    without weights). So all levels weigh the same in a cosine.

    Args:
        record: The scenes that it was trained on.
    """

    def __init__(self, network: VoxelHUNet, record: SceneRecord, name: str) -> None:
        self.name = name
        self.record = record
        self._network = network.eval()

    @staticmethod
    def open(file: Path, name: str, voxel_size: float | None = None) -> NetworkFeatures:
        """Opens a checkpoint of stage `masked_scene`; see `open_network` for errors."""
        return NetworkFeatures(*open_network(file, voxel_size), name)

    def untrained(self, seed: int, name: str) -> NetworkFeatures:
        """A network of the same size that has learned nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VoxelHUNet(self._network.settings)
        return NetworkFeatures(network, self.record, name)

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """See `VoxelFeatures`.

        Raises:
            ConfigurationError: The scene has not all features that the network takes, or other voxels.
        """
        scene = frame.scene
        taken = [number for number, name in enumerate(scene.columns) if name in self.record.columns]
        columns = tuple(scene.columns[number] for number in taken)
        scene = dataclasses.replace(scene, features=scene.features[:, taken], columns=columns)
        self.record.check(scene)
        pyramid, inputs, _ = scene_voxels(scene, len(self._network.dims))
        centres = torch.from_numpy(scene.index[rows].astype(np.float32)) + 0.5
        points = functional.pad(centres, (1, 0))  # of scene 0
        with torch.inference_mode():
            sampled, _ = sample_levels(self._network(inputs, pyramid), pyramid, points)
            return tuple(functional.layer_norm(level, list(level.shape[1:])).numpy() for level in sampled)
