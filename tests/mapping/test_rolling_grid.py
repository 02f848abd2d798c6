from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.rolling_grid import RollingGrid, covering_shape, lower_around, places_of


def numbers_in_memory(box: RollingGrid) -> np.ndarray:
    """Number of the voxel that every place stands for, [X, Y, Z, 3]."""
    x, y, z = box.shape
    numbers = np.zeros((x, y, z, 3), dtype=np.int64)
    for local in np.ndindex(x, y, z):
        voxel = box.lower + local
        numbers[tuple(voxel % box.shape)] = voxel
    return numbers


@pytest.mark.parametrize(
    ("lower", "cleared"),
    [
        ((0, 0, 0), 0),
        ((1, 0, 0), 3 * 2),
        ((0, -2, 0), 4 * 2 * 2),
        ((1, 1, 0), 24 - 3 * 2 * 2),
        ((4, 0, 0), 24),
        ((-40, 3, 1), 24),
    ],
)
def test_only_what_enters_is_cleared(lower: tuple[int, int, int], cleared: int) -> None:
    box = RollingGrid((4, 3, 2))
    assert places_of(box.move_to(np.array(lower))) == cleared


@pytest.mark.parametrize("seed", range(10))
def test_places_that_are_not_cleared_still_stand_for_the_same_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    box = RollingGrid(tuple(rng.integers(1, 7, 3)))
    for _ in range(30):
        before = numbers_in_memory(box)
        entered = box.move_to(box.lower + rng.integers(-3, 4, 3))
        after = numbers_in_memory(box)
        cleared = np.zeros(tuple(box.shape), dtype=int)
        for places in entered:
            cleared[places] += 1
        changed = (before != after).any(axis=-1)
        np.testing.assert_array_equal(cleared, changed.astype(int))  # neither twice nor in vain


@pytest.mark.parametrize("seed", range(20))
def test_a_box_holds_the_grid_at_any_heading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = VoxelGrid((0.0, -1.6, -0.6), 0.2, (20, 16, 6))
    yaw, tilt, about = rng.uniform(-np.pi, np.pi), rng.uniform(0.0, 0.05), rng.uniform(0.0, np.pi)
    axis = np.array([np.cos(about), np.sin(about), 0.0])
    cross = np.array([[0, 0, axis[1]], [0, 0, -axis[0]], [-axis[1], axis[0], 0]])
    lean = np.eye(3) + np.sin(tilt) * cross + (1 - np.cos(tilt)) * cross @ cross
    head = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    pose = RigidTransform(lean @ head, rng.uniform(-500.0, 500.0, 3))
    shape = np.array(covering_shape(grid))
    lower = lower_around(grid, pose, shape)
    corners = np.array([[x, y, z] for x in (0, 20) for y in (0, 16) for z in (0, 6)]) * 0.2 + grid.origin
    places = pose.apply(corners) / 0.2 - lower
    assert (places >= 0.0).all() and (places <= shape).all()


def test_size_of_the_default_box() -> None:
    assert covering_shape(DEFAULT_GRID) == (365, 365, 53)
    assert covering_shape(DEFAULT_GRID, margin=10.0) == (465, 465, 53)
    with pytest.raises(GridError, match="positive"):
        RollingGrid((3, 0, 2))
