"""One point per voxel."""

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_training.points import voxels
from scene_completion_training.points.voxels import VoxelMeans, majority, unit


def test_the_most_frequent_value_wins_and_the_smaller_one_of_two() -> None:
    keys, values = majority(np.array([5, 3, 5, 5, 3]), np.array([2, 9, 1, 2, -1]))
    assert keys.tolist() == [3, 5] and values.tolist() == [-1, 2]


@pytest.mark.parametrize("pending", [0, 1000])
def test_means_and_votes_of_a_voxel_are_those_of_all_its_points(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(voxels, "_PENDING", pending)
    sums = VoxelMeans(0.5, "cloud")
    sums.add(np.array([[0.1, 0.2, 0.3], [-0.3, 0, 0]]), np.array([[1.0], [4.0]]), {"label": np.array([7, 1])})
    sums.add(np.array([[0.3, 0.3, 0.1], [0.2, 0.0, 0.2]]), np.array([[3.0], [5.0]]), {"label": np.array([2, 2])})
    points, means, votes = sums.result()
    np.testing.assert_allclose(points, [[-0.3, 0, 0], [0.2, 0.5 / 3, 0.2]], atol=1e-6)
    assert means.tolist() == [[4.0], [3.0]] and votes["label"].tolist() == [1, 2]


def test_too_many_voxels_and_places_beyond_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxels, "MOST_POINTS", 2)
    sums = VoxelMeans(0.1, "cloud")
    sums.add(np.arange(9.0).reshape(3, 3), np.empty((3, 0)), {})
    with pytest.raises(SequenceError, match=r"cloud: has more than 2 voxels of 0.1 m. Crop it"):
        sums.result()
    for place in (np.nan, 2e5):
        with pytest.raises(SequenceError, match="beyond 105 km"):
            sums.add(np.full((1, 3), place), np.empty((1, 0)), {})


def test_normals_that_disagree_are_unknown() -> None:
    found = unit(np.array([[0.0, 0.0, 0.9], [0.1, 0.0, 0.0]], np.float32))
    assert found.tolist() == [[0, 0, 1], [0, 0, 0]]
