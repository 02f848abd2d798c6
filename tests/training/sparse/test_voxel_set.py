"""Sets of voxels, sampling between them, and sparse convolutions against dense ones, with their gradients."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.sparse import voxel_set
from scene_completion_training.sparse.voxel_set import (
    Pyramid,
    Shape,
    VoxelSet,
    down,
    sample,
    sample_levels,
    submanifold,
    up,
)

SHAPE = (9, 7, 6)


def random_set(shape: Shape = SHAPE, scenes: int = 2, share: float = 0.3, seed: int = 0) -> VoxelSet:
    """The set of random voxels, which are given to it in random order."""
    cells = torch.tensor(list(itertools.product(range(scenes), *map(range, shape))))
    generator = torch.Generator().manual_seed(seed)
    index = cells[torch.randperm(len(cells), generator=generator)[: int(share * len(cells))]]
    return VoxelSet.of(index, shape)[0]


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


def test_down_and_up_are_dense_where_voxels_are() -> None:
    (fine, coarse), (parent,) = vars(Pyramid.of(random_set(), 2)).values()
    features, weight = torch.randn(len(fine), 5), torch.randn(8, 5, 6)
    expected = at(functional.conv3d(dense(features, fine), kernel(weight, 2), stride=2), coarse)
    found = down(features, weight, fine, coarse, parent)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert coarse.shape == tuple((edge + 1) // 2 for edge in SHAPE)
    grid = torch.zeros(2, 6, *coarse.shape)
    grid.movedim(1, -1)[tuple(coarse.index.t())] = found
    back = torch.randn(8, 6, 5)
    expected = at(functional.conv_transpose3d(grid, kernel(back, 2).transpose(0, 1), stride=2), fine)
    torch.testing.assert_close(up(found, back, fine, parent), expected, rtol=1e-5, atol=1e-4)


def test_gradients_of_convolutions() -> None:
    (fine, coarse), (parent,) = vars(Pyramid.of(random_set((4, 4, 4), scenes=1, share=0.47), 2)).values()
    assert len(fine) == 30

    def check(function: Callable[..., Tensor], rows: int, offsets: int, *sets: VoxelSet | Tensor) -> None:
        features = torch.randn(rows, 2, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(offsets, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, w: function(x, w, *sets), (features, weight), fast_mode=True)

    check(submanifold, len(fine), 27, fine)
    check(submanifold, len(fine), 125, fine)
    check(down, len(fine), 8, fine, coarse, parent)
    check(up, len(coarse), 8, fine, parent)


@pytest.mark.parametrize("place", [(0, 9, 0, 0), (0, 0, -1, 0), (-1, 0, 0, 0), (1, 1, 1, 1)])
def test_voxels_outside_of_the_grid_or_there_twice_are_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="voxels"):
        VoxelSet.of(torch.tensor([[0, 0, 0, 0], place, [1, 1, 1, 1]]), SHAPE)


def random_points(count: int = 200, margin: float = 3.0) -> Tensor:
    """Points [P, 4] in and around the grid, of three scenes, of which the sets have two."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.randint(3, (count, 1), generator=generator)
    return torch.cat([scene, torch.rand(count, 3, generator=generator) * (9 + 2 * margin) - margin], dim=1)


def plainly(features: Tensor, voxels: VoxelSet, points: Tensor, edge: float) -> tuple[Tensor, list[bool]]:
    """The readable twin: point by point, corner by corner."""
    rows = {tuple(place): row for row, place in enumerate(voxels.index.tolist())}
    out = torch.zeros(len(points), features.shape[1])
    known = []
    for number, (scene, *place) in enumerate(points.tolist()):
        corners = []
        u = [p / edge - 0.5 for p in place]
        for corner in itertools.product(*([int(v // 1), int(v // 1) + 1] for v in u)):
            weight = 1.0
            for v, c in zip(u, corner, strict=True):
                weight *= 1 - abs(v - c)
            if weight > 0 and (place_of := (int(scene), *corner)) in rows:
                corners.append((weight, features[rows[place_of]]))
        known.append(bool(corners))
        if corners:
            out[number] = torch.stack([w * f for w, f in corners]).sum(dim=0) / sum(w for w, _ in corners)
    return out, known


def test_m1_m2_sampling_is_that_of_the_readable_twin() -> None:
    """A voxel has its value at its centre (M1), and free space around it does not count (M2)."""
    pyramid, points = Pyramid.of(random_set(share=0.1), 3), random_points()
    features = [torch.randn(len(level), 4) for level in pyramid.levels]
    found, known = sample_levels(features, pyramid, points)
    for level, (f, voxels) in enumerate(zip(features, pyramid.levels, strict=True)):
        expected, there = plainly(f, voxels, points, 2**level)
        torch.testing.assert_close(found[level], expected, rtol=1e-4, atol=1e-4)
        if level == 0:
            assert known.tolist() == there
            assert 0 < sum(there) < len(there)


def test_gradients_of_samples() -> None:
    voxels, points = random_set(share=0.1), random_points(40, margin=0.0).double()
    features = torch.randn(len(voxels), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: sample(f, voxels, points, 2.0)[0], features)
