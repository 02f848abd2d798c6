import numpy as np

from scene_completion_ros.mapping.clearing import obstacle_points, seen_free_cubes
from tests.mapping.small_voxels import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED, voxels_of


def test_obstacles_are_occupied_voxels_of_other_classes() -> None:
    state = np.array([[[SURFACE, FREE]], [[COMPLETED, SURFACE]]])
    labels = {(0, 0, 0): 0, (1, 0, 0): 1, (1, 0, 1): 2}
    voxels = voxels_of(state, (1.0, -0.5, -1.0), labels=labels)
    np.testing.assert_array_equal(obstacle_points(voxels), voxels.points_camera())
    np.testing.assert_allclose(obstacle_points(voxels, ignored=[0]), [[0.0, 0.5, 2.5], [0.0, -0.5, 2.5]], atol=1e-6)
    assert obstacle_points(voxels, ignored=[0, 1, 2]).shape == (0, 3)


def test_every_seen_free_voxel_is_a_point() -> None:
    state = np.array([[[FREE, INFERRED]], [[SURFACE, UNOBSERVED]], [[INFERRED, FREE]]])
    points = seen_free_cubes(voxels_of(state, (1.0, -0.5, -1.0)), 1)
    assert points.dtype == np.float32
    # Centres (1.5, 0, -0.5) and (3.5, 0, 0.5) of the grid, in the optical frame: x right, y down, z forward.
    np.testing.assert_allclose(points, [[0.0, 0.5, 1.5], [0.0, -0.5, 3.5]], atol=1e-6)


def test_a_cube_is_free_only_throughout() -> None:
    state = np.full((5, 4, 2), FREE)  # the fifth slice makes no cube of two
    state[1, 3, 0] = INFERRED
    points = seen_free_cubes(voxels_of(state, (0.0, -2.0, -1.0), 1.0), 2)
    # Of the cubes centred at x 1 and 3, y -1 and 1, z 0, that at (1, 1, 0) is not free.
    np.testing.assert_allclose(points, [[1.0, 0.0, 1.0], [1.0, 0.0, 3.0], [-1.0, 0.0, 3.0]], atol=1e-6)
    assert seen_free_cubes(voxels_of(np.full((2, 2, 2), INFERRED)), 2).shape == (0, 3)
    assert seen_free_cubes(voxels_of(np.full((2, 2, 2), FREE)), 3).shape == (0, 3)
