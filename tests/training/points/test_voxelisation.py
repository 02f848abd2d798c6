"""Voxels of points: whole, at random offsets, and back; how training turns a scene."""

import numpy as np

from scene_completion_training.points.voxels import OFFSETS, turned, voxelised
from tests.training.points.small_rooms import small_room


def test_every_point_has_its_voxel_and_every_voxel_one_of_its_points() -> None:
    points = small_room(edge=0.07).points
    found = voxelised(points, 0.2, np.random.default_rng(0))
    assert len(np.unique(found.index, axis=0)) == len(found.index) < len(points)
    assert found.index.min() >= 0
    np.testing.assert_array_equal(found.voxel[found.chosen], np.arange(len(found.index)))
    low = points / 0.2 - found.index[found.voxel]  # one offset for all: voxels are cubes of a grid
    assert (low.max(axis=0) - low.min(axis=0) < 1.0 + 1e-4).all()


def test_offsets_and_points_of_voxels_are_drawn() -> None:
    points = small_room().points
    one, again, other = (voxelised(points, 0.25, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.index, again.index)
    np.testing.assert_array_equal(one.chosen, again.chosen)
    assert len(one.index) != len(other.index) or (one.index != other.index).any()
    starts = [voxelised(points, 0.25, np.random.default_rng(seed)).index.min(axis=0) for seed in range(60)]
    assert np.min(starts) == 0 and np.max(starts) == OFFSETS - 1


def test_training_scenes_are_turned_and_scaled_alike_in_all_directions() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scales, tilts = [], []
    for seed in range(30):
        matrix = np.linalg.lstsq(points, turned(points, np.random.default_rng(seed)), rcond=None)[0].T
        scale = np.cbrt(np.linalg.det(matrix))
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(3), atol=1e-4)
        scales.append(scale)
        tilts.append(np.arccos(matrix[2, 2] / scale))
    assert 0.9 <= min(scales) < max(scales) <= 1.1
    assert 0.0 < max(tilts) <= np.sqrt(2.0) * np.pi / 64 + 1e-3
