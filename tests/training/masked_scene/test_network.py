"""Networks come out of their checkpoints as they went in; `test_voxel_features.py` has what they cannot look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scene_completion_training.evaluation.voxel_features import open_network
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
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
    read, record = open_network(file)
    for name, value in network.state_dict().items():
        assert torch.equal(value, read.state_dict()[name])
    assert (record.columns, record.voxel_size) == (FEATURES, 0.2)
    assert not read.training and not any(value.requires_grad for value in read.parameters())
