"""Features of voxels that are probed: what goes into a network, what comes out of it, a student's units.

All of them speak of the same voxels of the same frame, so that probes of them can be compared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scene.objective import SceneView, sampled, standardised
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """A scene, and the frame that it is of."""

    sequence: PosedSequence
    index: int
    scene: VoxelScene


@dataclass(frozen=True)
class SceneRecord:
    """What a checkpoint remembers of the scenes that its network was trained on.

    Attributes:
        voxel_size: Edge of a voxel, metres.
    """

    columns: tuple[str, ...]
    voxel_size: float

    def check(self, scene: VoxelScene) -> None:
        """Refuses a scene that the network cannot look at.

        Raises:
            ConfigurationError: It has voxels of another size, or other features.
        """
        size = scene.grid.voxel_size
        if abs(size - self.voxel_size) > 1e-6:
            what = f"its voxels have {size:g} m, those that the network was trained on {self.voxel_size:g} m"
            cure = "Take a network of this voxel size, or make the scene on another grid"
            raise ConfigurationError(what, where=f"scene {scene.name}", cure=cure)
        if scene.columns != self.columns:
            own, known = ", ".join(scene.columns), ", ".join(self.columns)
            what = f"it has the features {own}; the network was trained on {known}"
            cure = "Make it with the same student, and with label units only where the network knows them"
            raise ConfigurationError(what, where=f"scene {scene.name}", cure=cure)


def open_network(file: Path) -> tuple[VoxelHUNet, SceneRecord]:
    """The network of a checkpoint and what it remembers of its scenes.

    Of stage `masked_scene` it is the teacher, the average of all that its student was.

    Raises:
        BundleError: It is no checkpoint of that stage.
    """
    stored = Checkpoint.read(file)
    remembered = stored.configuration
    try:
        record = SceneRecord(tuple(remembered["columns"]), float(remembered["data"]["voxel_size"]))
        network = VoxelHUNet(HUNetSettings.of(remembered["network"]))
        network.load_state_dict(dict(stored.state))
    except (KeyError, TypeError, RuntimeError) as error:
        what = f"no network of voxels in it: its stage is {stored.stage} ({str(error)[:200]})"
        cure = "Name the checkpoint of a training with stage `masked_scene`"
        raise BundleError(what, where=str(file), cure=cure) from error
    return network.eval().requires_grad_(False), record


class SceneColumns:
    """Columns of the scenes themselves: the inputs of networks, or the label units of a student."""

    def __init__(self, name: str, *, units: bool = False) -> None:
        self.name = name
        self._units = units

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features, float32 [n, D], of the voxels at some rows [n] of the scene.

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
    """

    def __init__(self, network: VoxelHUNet, record: SceneRecord, name: str) -> None:
        self.name = name
        self.record = record
        self._network = network.eval()

    @staticmethod
    def open(file: Path, name: str) -> NetworkFeatures:
        """Opens a checkpoint of stage `masked_scene`; see `open_network` for errors."""
        return NetworkFeatures(*open_network(file), name)

    def untrained(self, seed: int, name: str) -> NetworkFeatures:
        """A network of the same size that has learned nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = VoxelHUNet(self._network.settings)
        return NetworkFeatures(network, self.record, name)

    def features(self, frame: SceneFrame, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """Features of each level, float32 [n, D_l], of the voxels at some rows [n] of the scene.

        Raises:
            ConfigurationError: The scene has not all features that the network takes, or other voxels.
        """
        scene = frame.scene
        taken = [number for number, name in enumerate(scene.columns) if name in self.record.columns]
        columns = tuple(scene.columns[number] for number in taken)
        scene = dataclasses.replace(scene, features=scene.features[:, taken], columns=columns)
        self.record.check(scene)
        index = functional.pad(torch.from_numpy(scene.index.astype(np.int64)), (1, 0))  # of scene 0
        view = SceneView(index, torch.from_numpy(scene.features), len(self._network.dims))
        centres = index[torch.from_numpy(rows)] + torch.tensor([0.0, 0.5, 0.5, 0.5])
        with torch.inference_mode():
            levels = sampled(self._network(view.features, view.pyramid), view, centres)
            return tuple(standardised(level).numpy() for level in levels)


VoxelFeatures: TypeAlias = SceneColumns | NetworkFeatures
