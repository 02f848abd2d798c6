"""Sets of voxels: order, search, neighbours, coarser levels, bad input."""

import pytest
import torch
from torch import Tensor

from scene_completion_training.sparse import voxel_set
from scene_completion_training.sparse.voxel_set import CELL, VoxelSet, cube
from tests.training.sparse.voxel_sets import SHAPE, random_set


def as_tuples(index: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in index.tolist()]


@pytest.fixture(params=["table", "search"], autouse=True)
def way_to_find(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "search":
        monkeypatch.setattr(voxel_set, "TABLE_CELLS", -1)


@pytest.mark.parametrize(("block", "edge"), [(7, 3), (4096, 3), (7, 5)])
def test_neighbours_are_those_of_a_plain_search(block: int, edge: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxel_set, "BLOCK", block)
    voxels = random_set()
    places = as_tuples(voxels.index)
    rows = {place: row for row, place in enumerate(places)}
    expected = {
        (row, offset, other)
        for row, (scene, x, y, z) in enumerate(places)
        for offset, (dx, dy, dz) in enumerate(cube(edge))
        if (other := rows.get((scene, x + dx, y + dy, z + dz))) is not None
    }
    found = [
        (start + int(row), offset, int(other))
        for start, _, pairs in voxels.neighbours(edge)
        for offset, sides in enumerate(pairs)
        for row, other in zip(*sides, strict=True)
    ]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_the_coarser_set_holds_the_parents() -> None:
    voxels = random_set(share=0.1)
    coarse, parent = voxels.coarser()
    halves = torch.cat([voxels.index[:, :1], voxels.index[:, 1:] // 2], dim=1)
    assert coarse.shape == (5, 4, 3)
    assert as_tuples(coarse.index) == sorted(set(as_tuples(halves)))
    assert torch.equal(coarse.index[parent], halves)
    children = torch.tensor(CELL)[voxels.child]
    assert torch.equal(2 * coarse.index[parent][:, 1:] + children, voxels.index[:, 1:])


@pytest.mark.parametrize("place", [(0, 9, 0, 0), (0, 0, -1, 0), (-1, 0, 0, 0), (1, 1, 1, 1)])
def test_voxels_outside_of_the_grid_or_there_twice_are_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError, match="voxels"):
        VoxelSet.of(torch.tensor([[0, 0, 0, 0], place, [1, 1, 1, 1]]), SHAPE)
