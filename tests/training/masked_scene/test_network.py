"""Networks come out of their checkpoints as they went in, and say what they cannot look at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_training.masked_scene.network import open_network
from scene_completion_training.masked_scene.scenes import FEATURES, feature_names
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.masked_scene.small_scenes import scene_of
from tests.training.saved_checkpoint import save_checkpoint

SETTINGS = HUNetSettings(5, (8, 12), (8, 12))


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, VoxelHUNet]:
    torch.manual_seed(0)
    network = VoxelHUNet(SETTINGS)
    data = {"voxel_size": 0.2, "student": "auto"}
    remembered = {"columns": list(FEATURES), "network": SETTINGS.plain(), "data": data, "steps": 7}
    return save_checkpoint(tmp_path / "last.ckpt", network, "masked_scene", **remembered), network


def test_a_network_is_read_back(checkpoint: tuple[Path, VoxelHUNet]) -> None:
    file, network = checkpoint
    read, record = open_network(file, 0.2)
    for name, value in network.state_dict().items():
        assert torch.equal(value, read.state_dict()[name])
    assert (record.columns, record.voxel_size, record.student, record.steps) == (FEATURES, 0.2, "auto", 7)
    assert not read.training and not any(value.requires_grad for value in read.parameters())


def test_what_it_cannot_look_at_is_refused(checkpoint: tuple[Path, VoxelHUNet]) -> None:
    with pytest.raises(ConfigurationError, match=r"trained on voxels of 0\.2 m, and is asked for 0\.4 m"):
        open_network(checkpoint[0], 0.4)
    record = open_network(checkpoint[0])[1]
    scene = scene_of([[0, 0, 0]])
    record.check(scene)
    with pytest.raises(ConfigurationError, match=r"its voxels have 0\.1 m, those .* 0\.2 m"):
        record.check(dataclasses.replace(scene, grid=VoxelGrid((0, 0, 0), 0.1, (8, 8, 4))))
    features = torch.zeros(1, 6).numpy()
    with pytest.raises(ConfigurationError, match="it has the features .*unit_000; the network was trained on prob"):
        record.check(dataclasses.replace(scene, features=features, columns=feature_names(1)))
