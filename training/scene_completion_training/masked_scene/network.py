"""The network of a training of masked scenes, read back from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scene.scenes import VoxelScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet


@dataclass(frozen=True)
class SceneRecord:
    """What a checkpoint remembers of the scenes that its network was trained on.

    Attributes:
        columns: Names of the features.
        voxel_size: Edge of a voxel, metres.
        student: Bundle that predicted voxels, as it was named.
        steps: Steps of the whole training.
    """

    columns: tuple[str, ...]
    voxel_size: float
    student: str
    steps: int

    def check(self, scene: VoxelScene) -> None:
        """Refuses a scene that the network cannot look at.

        Raises:
            ConfigurationError: It has voxels of another size, or other features.
        """
        if abs(scene.voxel_size - self.voxel_size) > 1e-6:
            raise ConfigurationError(
                f"its voxels have {scene.voxel_size:g} m, those that the network was trained on {self.voxel_size:g} m",
                where=f"scene {scene.name}",
                cure="Take a network of this voxel size, or make the scene on another grid",
            )
        if scene.columns != self.columns:
            raise ConfigurationError(
                f"it has the features {', '.join(scene.columns)}; the network was trained on {', '.join(self.columns)}",
                where=f"scene {scene.name}",
                cure="Make it with the same student, and with label units only where the network knows them",
            )


def open_network(file: Path, voxel_size: float | None = None) -> tuple[VoxelHUNet, SceneRecord]:
    """The network of a checkpoint and what it remembers of its scenes.

    Of stage `masked_scene` it is the teacher, the average of all that its student was.

    Args:
        file: The checkpoint.
        voxel_size: Edge of the voxels that the network shall look at, metres, where it is known.

    Raises:
        BundleError: It is no checkpoint of that stage.
        ConfigurationError: It was trained on voxels of another size.
    """
    stored = Checkpoint.read(file)
    remembered = stored.configuration
    try:
        record = SceneRecord(
            tuple(remembered["columns"]),
            float(remembered["data"]["voxel_size"]),
            str(remembered["data"]["student"]),
            int(remembered["steps"]),
        )
        network = VoxelHUNet(HUNetSettings.of(remembered["network"]))
        network.load_state_dict(dict(stored.state))
    except (KeyError, TypeError, RuntimeError) as error:
        raise BundleError(
            f"no network of voxels in it: its stage is {stored.stage} ({str(error)[:200]})",
            where=str(file),
            cure="Name the checkpoint of a training with stage `masked_scene`",
        ) from error
    if voxel_size is not None and abs(voxel_size - record.voxel_size) > 1e-6:
        raise ConfigurationError(
            f"was trained on voxels of {record.voxel_size:g} m, and is asked for {voxel_size:g} m",
            where=str(file),
            cure="Train a network on voxels of this size",
        )
    return network.eval().requires_grad_(False), record


def scene_voxels(scene: VoxelScene, levels: int) -> tuple[Pyramid, torch.Tensor, torch.Tensor]:
    """A scene as a network takes it.

    Returns:
        Its pyramid; its features float32 [N, F] in the order of the pyramid's finest level; and that order, int64 [N].
    """
    index = torch.nn.functional.pad(torch.from_numpy(scene.index.astype("int64")), (1, 0))
    voxels, order = VoxelSet.of(index, scene.shape)
    return Pyramid.of(voxels, levels), torch.from_numpy(scene.features)[order], order
