"""Sets of voxels: order, search, neighbours, coarser levels, bad input."""

import pytest
import torch
from torch import Tensor

from scene_completion_ros.errors import GridError
from scene_completion_training.sparse.voxel_set import VoxelSet
from tests.training.sparse.voxel_sets import SHAPE


@pytest.mark.parametrize("place", [(0, 9, 0, 0), (0, 0, -1, 0), (0, 0, 0, 6), (-1, 0, 0, 0)])
def test_voxels_outside_of_the_grid_are_refused(place: tuple[int, ...]) -> None:
    with pytest.raises(GridError, match="1 of 3 voxels lie outside of a grid of 9×7×6.*Crop") as caught:
        VoxelSet.of(torch.tensor([[0, 0, 0, 0], place, [1, 1, 1, 1]]), SHAPE)
    assert str(place) in str(caught.value)


def test_voxels_that_are_there_twice_are_refused() -> None:
    with pytest.raises(GridError, match=r"1 of 3 voxels are there more than once.*\(0, 4, 5, 1\).*Merge"):
        VoxelSet.of(torch.tensor([[0, 4, 5, 1], [1, 4, 5, 1], [0, 4, 5, 1]]), SHAPE)


@pytest.mark.parametrize("index", [torch.zeros(3, 3).long(), torch.zeros(3, 4), torch.zeros(4).long()])
def test_what_is_no_index_is_refused(index: Tensor) -> None:
    with pytest.raises(GridError, match="columns scene, x, y, z"):
        VoxelSet.of(index, SHAPE)
