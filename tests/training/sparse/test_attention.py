"""The z-order, windows along it, and attention within."""

import itertools

import pytest
import torch

from scene_completion_training.sparse import hu_net
from scene_completion_training.sparse.hu_net import SerialisedAttention, windows, z_order
from tests.training.sparse.voxel_sets import random_set


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
