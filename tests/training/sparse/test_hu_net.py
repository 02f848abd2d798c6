"""The network: shapes, equivariance, attention along a curve, no leakage of what is masked, bad input."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from scene_completion_training.sparse import hu_net
from scene_completion_training.sparse.hu_net import HUNetSettings, SerialisedAttention, VoxelHUNet, windows, z_order
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet
from tests.training.sparse.test_voxel_set import random_set

SMALL = HUNetSettings(3, encoder=(8, 12, 16), decoder=(10, 12, 16))
ATTENDING = pytest.mark.parametrize("settings", [SMALL, dataclasses.replace(SMALL, attending=2)])
GRID = (16, 16, 12)  # multiples of the coarsest voxels


def network(settings: HUNetSettings = SMALL) -> VoxelHUNet:
    torch.manual_seed(0)
    net = VoxelHUNet(settings)
    for name, parameter in net.named_parameters():
        if "scale" in name:
            nn.init.ones_(parameter)  # so that blocks say something
    return net


def scene(scenes: int = 1, seed: int = 0) -> tuple[Tensor, Pyramid]:
    voxels = random_set(GRID, scenes, 0.15, seed)
    features = torch.randn(len(voxels), 3, generator=torch.Generator().manual_seed(seed))
    return features, Pyramid.of(voxels, SMALL.levels)


def patch_is_masked(voxels: VoxelSet) -> Tensor:
    """Aligned patches of the coarsest voxels, every other one [N]."""
    return (voxels.index[:, 1:] // 4).sum(dim=1) % 2 == 1


def of_all(levels: list[Tensor]) -> Tensor:
    return torch.cat([level.flatten() for level in levels])


def moved(voxels: VoxelSet, by: int) -> Pyramid:
    shape = (GRID[0] + 4, GRID[1] + 4, GRID[2] + 4)
    return Pyramid.of(VoxelSet.of(voxels.index + torch.tensor([0, by, by, by]), shape)[0], SMALL.levels)


def test_m4_a_network_does_not_know_where_voxels_are() -> None:
    net, (features, pyramid) = network(), scene()
    here = of_all(net(features, pyramid))
    torch.testing.assert_close(of_all(net(features, moved(pyramid.levels[0], 4))), here, rtol=1e-4, atol=1e-5)
    aside = of_all(net(features, moved(pyramid.levels[0], 1)))
    assert len(aside) != len(here) or (aside - here).abs().max() > 0.01  # other voxels share a parent


@ATTENDING
def test_masked_voxels_do_not_leak(settings: HUNetSettings) -> None:
    net, (features, pyramid) = network(settings), scene()
    voxels = pyramid.levels[0]
    seen = ~patch_is_masked(voxels)
    visible = Pyramid.of(VoxelSet.of(voxels.index[seen], voxels.shape)[0], SMALL.levels)
    sets: list[VoxelSet] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, VoxelSet]) -> None:
        sets.append(inputs[1])

    for layer in net.encoders:
        layer.register_forward_pre_hook(note)
    answer = of_all(net(features[seen], pyramid, visible))
    for level, voxels_of_level in enumerate(sets):
        places = torch.cat([voxels.index[seen][:, :1], voxels.index[seen][:, 1:] >> level], dim=1).unique(dim=0)
        assert torch.equal(voxels_of_level.index, places)
    coarse = pyramid.levels[-1].index
    masked_patches = coarse[patch_is_masked(VoxelSet(coarse * torch.tensor([1, 4, 4, 4]), voxels.shape))]
    assert len(masked_patches) and (visible.levels[-1].find(masked_patches) < 0).all()
    assert (of_all(net(features[seen] + 1.0, pyramid, visible)) - answer).abs().max() > 0.01
    assert (of_all(net(features, pyramid))[: len(answer)] - answer).abs().max() > 0.01


@ATTENDING
def test_scenes_of_a_batch_do_not_know_each_other(settings: HUNetSettings) -> None:
    net, (features, pyramid) = network(settings), scene(2)
    together = net(features, pyramid)
    for number in range(2):
        index = pyramid.levels[0].index
        mine = index[:, 0] == number
        alone = Pyramid.of(VoxelSet.of(index[mine] * torch.tensor([0, 1, 1, 1]), GRID)[0], SMALL.levels)
        for one, both, level in zip(net(features[mine], alone), together, pyramid.levels, strict=True):
            torch.testing.assert_close(one, both[level.index[:, 0] == number], rtol=1e-4, atol=1e-4)


def test_voxels_of_the_coarsest_levels_attend_to_each_other() -> None:
    """As published: two blocks behind the residual ones, in encoder and decoder; they see further than convolutions."""
    attending = network(dataclasses.replace(SMALL, attending=2))
    assert [len(level.blocks) for side in (attending.encoders, attending.decoders) for level in side] == [1, 3, 3] * 2
    features, pyramid = scene()
    finest, other = Pyramid.of(pyramid.levels[0], 1), features.clone()
    other[0] += 5.0
    for count in (0, 1):
        net = network(HUNetSettings(3, (8,), (8,), attending=count))
        changed = (net(other, finest)[0] - net(features, finest)[0]).abs().sum(dim=1) > 1e-6
        assert bool(changed.all()) == bool(count)


def test_the_curve_interleaves_bits_and_visits_every_cell_once() -> None:
    assert z_order(torch.tensor([[0b11, 0b01, 0b10]]), 2).tolist() == [0b101_110]
    cube = torch.tensor(list(itertools.product(range(8), repeat=3)))
    assert sorted(z_order(cube, 3).tolist()) == list(range(512))


def test_windows_hold_every_voxel_once_and_one_scene_each() -> None:
    voxels = random_set(scenes=3)
    rows = windows(voxels, False, size=50)
    held = [row[row >= 0] for row in rows]
    assert sorted(torch.cat(held).tolist()) == list(range(len(voxels)))
    assert all(len(voxels.index[window, 0].unique()) == 1 for window in held)
    for scene in range(3):
        sizes = [len(window) for window in held if voxels.index[window[0], 0] == scene]
        assert max(sizes) <= 50 and max(sizes) - min(sizes) <= 1
    assert not torch.equal(rows, windows(voxels, True, size=50))


def test_attention_is_that_of_each_window_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its readable twin takes the windows one by one."""
    monkeypatch.setattr(hu_net.windows, "__defaults__", (40,))
    voxels, layer = random_set(), SerialisedAttention(64, True)
    x = torch.randn(len(voxels), 64)
    expected = x.clone()
    for window in windows(voxels, True):
        rows = window[window >= 0]
        query, key, value = layer.inward(layer.norm(x[rows])).unflatten(1, (3, 2, 32)).unbind(1)
        likeness = torch.einsum("qhc,khc->hqk", query, key) / 32**0.5
        mixed = torch.einsum("hqk,khc->qhc", likeness.softmax(dim=-1), value).flatten(1)
        expected[rows] += layer.scale * layer.outward(mixed)
    wide, gate = layer.widen(layer.second_norm(expected)).chunk(2, dim=1)
    expected += layer.second_scale * layer.narrow(wide * torch.nn.functional.gelu(gate))
    torch.testing.assert_close(layer(x, voxels), expected, rtol=1e-4, atol=1e-5)
    assert SerialisedAttention(32, False)(torch.zeros(0, 32), random_set(share=0.0)).shape == (0, 32)
