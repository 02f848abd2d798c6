import numpy as np
import pytest

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.temporal_fusion import RollingGrid, covering_shape, lower_around, places_of


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
