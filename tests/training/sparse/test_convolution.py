"""Sparse convolutions beside dense ones, and their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.sparse import voxel_set
from scene_completion_training.sparse.convolution import down, submanifold, up
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet
from tests.training.sparse.voxel_sets import SHAPE, random_set


def dense(features: Tensor, voxels: VoxelSet) -> Tensor:
    """[scenes, C, X, Y, Z], zero where no voxel is; an odd edge is filled up to an even one."""
    edges = [edge + edge % 2 for edge in voxels.shape]
    grid = features.new_zeros(voxels.scenes, *edges, features.shape[1])
    grid[tuple(voxels.index.t())] = features
    return grid.movedim(-1, 1)


def at(grid: Tensor, voxels: VoxelSet) -> Tensor:
    """[N, C] of a dense grid."""
    return grid.movedim(1, -1)[tuple(voxels.index.t())]


def kernel(weight: Tensor, edge: int) -> Tensor:
    """A sparse weight [edge³, C, D] as a dense one [D, C, x, y, z]."""
    return weight.unflatten(0, (edge, edge, edge)).permute(4, 3, 0, 1, 2)


@pytest.fixture(params=["table", "search"], autouse=True)
def way_to_find(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "search":
        monkeypatch.setattr(voxel_set, "TABLE_CELLS", -1)


@pytest.mark.parametrize("edge", [3, 5])
def test_submanifold_is_dense_where_voxels_are(edge: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxel_set, "BLOCK", 50)
    voxels, weight = random_set(), torch.randn(edge**3, 5, 8)
    features = torch.randn(len(voxels), 5)
    expected = at(functional.conv3d(dense(features, voxels), kernel(weight, edge), padding=edge // 2), voxels)
    torch.testing.assert_close(submanifold(features, weight, voxels), expected, rtol=1e-5, atol=3e-5)


def test_down_is_dense_where_voxels_are() -> None:
    (fine, coarse), (parent,) = vars(Pyramid.of(random_set(), 2)).values()
    features, weight = torch.randn(len(fine), 5), torch.randn(8, 5, 6)
    expected = at(functional.conv3d(dense(features, fine), kernel(weight, 2), stride=2), coarse)
    torch.testing.assert_close(down(features, weight, fine, coarse, parent), expected, rtol=1e-5, atol=1e-5)


def test_up_is_dense_where_voxels_are() -> None:
    (fine, coarse), (parent,) = vars(Pyramid.of(random_set(), 2)).values()
    features, weight = torch.randn(len(coarse), 5), torch.randn(8, 5, 6)
    transposed = kernel(weight, 2).transpose(0, 1)
    cells = tuple((edge + 1) // 2 for edge in SHAPE)
    grid = torch.zeros(2, 5, *cells)
    grid.movedim(1, -1)[tuple(coarse.index.t())] = features
    expected = at(functional.conv_transpose3d(grid, transposed, stride=2), fine)
    torch.testing.assert_close(up(features, weight, fine, parent), expected, rtol=1e-5, atol=1e-5)


def test_gradients() -> None:
    (fine, coarse), (parent,) = vars(Pyramid.of(random_set((4, 4, 4), scenes=1, share=0.47), 2)).values()
    assert len(fine) == 30

    def check(function: Callable[..., Tensor], rows: int, offsets: int, *sets: VoxelSet | Tensor) -> None:
        features = torch.randn(rows, 2, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(offsets, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, w: function(x, w, *sets), (features, weight))

    check(submanifold, len(fine), 27, fine)
    check(submanifold, len(fine), 125, fine)
    check(down, len(fine), 8, fine, coarse, parent)
    check(up, len(coarse), 8, fine, parent)
