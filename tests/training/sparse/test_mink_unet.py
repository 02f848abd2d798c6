"""MinkUNet18A: its size, and that it is the dense network of each scene where voxels are."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.sparse.mink_unet import LEVELS, MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid
from tests.training.sparse.test_voxel_set import at, dense, kernel, random_set


def small(inputs: int = 3) -> MinkUNet18A:
    torch.manual_seed(0)
    network = MinkUNet18A(inputs, 6, (6, 8, 10, 12), (10, 8, 6, 7))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):  # so that it says something when it is frozen
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def test_the_published_network_has_its_number_of_parameters() -> None:
    """As counted from its architecture: kernels, two numbers a channel for each norm, skips where widths change."""
    network = MinkUNet18A(3)
    assert sum(p.numel() for p in network.parameters()) == 15_491_232
    assert network.channels == 96


def dense_twin(network: MinkUNet18A, features: Tensor, pyramid: Pyramid) -> Tensor:
    """The readable twin: the same network by dense convolutions, everything but voxels set to zero."""
    levels = pyramid.levels

    def same(x: Tensor, weight: Tensor, level: int) -> Tensor:
        edge = round(len(weight) ** (1 / 3))
        grid = functional.conv3d(dense(x, levels[level]), kernel(weight, edge), padding="same")
        return at(grid, levels[level])

    def stage(blocks: nn.Module, x: Tensor, level: int) -> Tensor:
        for block in blocks:
            hidden = functional.relu(block.first.norm(same(x, block.first.weight, level)))
            x = functional.relu(block.skip(x) + block.second.norm(same(hidden, block.second.weight, level)))
        return x

    x = functional.relu(network.stem.norm(same(features, network.stem.weight, 0)))
    skips = []
    for level, (step, blocks) in enumerate(zip(network.downs, network.encoders, strict=True)):
        skips.append(x)
        coarse = functional.conv3d(dense(x, levels[level]), kernel(step.weight, 2), stride=2)
        x = stage(blocks, functional.relu(step.norm(at(coarse, levels[level + 1]))), level + 1)
    for level, step, blocks in zip((3, 2, 1, 0), network.ups, network.decoders, strict=True):
        weight = kernel(step.weight, 2).transpose(0, 1)
        fine = at(functional.conv_transpose3d(dense(x, levels[level + 1]), weight, stride=2), levels[level])
        x = stage(blocks, torch.cat([functional.relu(step.norm(fine)), skips[level]], dim=1), level)
    return x


def test_it_is_the_dense_network_where_voxels_are() -> None:
    network, pyramid = small(), Pyramid.of(random_set((16, 16, 16), 2, 0.1), LEVELS)
    features = torch.randn(len(pyramid.levels[0]), 3)
    with torch.no_grad():
        found, expected = network(features, pyramid), dense_twin(network, features, pyramid)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
