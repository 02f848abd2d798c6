"""Networks come out of their checkpoints as they went in."""

from pathlib import Path

import torch

from scene_completion_training.evaluation.voxel_features import open_network
from scene_completion_training.masked_scene.views import POINT_FEATURES
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.saved_checkpoint import save_checkpoint

SETTINGS = HUNetSettings(6, (8, 12), (8, 12))


def test_a_network_is_read_back(tmp_path: Path) -> None:
    network = VoxelHUNet(SETTINGS)
    data = {"voxel_size": 0.05}
    remembered = {"columns": list(POINT_FEATURES), "network": SETTINGS.plain(), "data": data, "steps": 7}
    file = save_checkpoint(tmp_path / "last.ckpt", network, "masked_scene", **remembered)
    read, record = open_network(file)
    for name, value in network.state_dict().items():
        assert torch.equal(value, read.state_dict()[name])
    assert (record.columns, record.voxel_size) == (POINT_FEATURES, 0.05)
    assert not read.training and not any(value.requires_grad for value in read.parameters())
