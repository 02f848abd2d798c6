"""Voxels of points: whole, at random offsets, and back; how training turns a scene."""

import numpy as np
import pytest

from scene_completion_training.points import voxels
from scene_completion_training.points.voxels import VoxelMeans, turned, voxelised
from tests.training.points.small_rooms import small_room


def test_every_point_has_its_voxel_and_every_voxel_one_of_its_points() -> None:
    points = small_room(edge=0.07).points
    found = voxelised(points, 0.2, np.random.default_rng(0))
    assert len(np.unique(found.index, axis=0)) == len(found.index) < len(points)
    assert found.index.min() >= 0
    np.testing.assert_array_equal(found.voxel[found.chosen], np.arange(len(found.index)))
    others = voxelised(points, 0.2, np.random.default_rng(1)).chosen
    assert len(np.union1d(found.chosen, others)) > 1.2 * len(others)  # which one is drawn
    low = points / 0.2 - found.index[found.voxel]  # one offset for all: voxels are cubes of a grid
    assert (low.max(axis=0) - low.min(axis=0) < 1.0 + 1e-4).all()


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


@pytest.mark.parametrize("pending", [0, 1000])
def test_means_and_votes_of_a_voxel_are_those_of_all_its_points(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(voxels, "_PENDING", pending)
    sums = VoxelMeans(0.5, "cloud")
    sums.add(np.array([[0.1, 0.2, 0.3], [-0.3, 0, 0]]), np.array([[1.0], [4.0]]), {"label": np.array([7, 1])})
    sums.add(np.array([[0.3, 0.3, 0.1], [0.2, 0.0, 0.2]]), np.array([[3.0], [5.0]]), {"label": np.array([2, 2])})
    points, means, votes = sums.result()
    np.testing.assert_allclose(points, [[-0.3, 0, 0], [0.2, 0.5 / 3, 0.2]], atol=1e-6)
    assert means.tolist() == [[4.0], [3.0]] and votes["label"].tolist() == [1, 2]
