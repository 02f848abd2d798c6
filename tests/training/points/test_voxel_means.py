"""One point per voxel."""

import numpy as np
import pytest

from scene_completion_training.points import voxels
from scene_completion_training.points.voxels import VoxelMeans


@pytest.mark.parametrize("pending", [0, 1000])
def test_means_and_votes_of_a_voxel_are_those_of_all_its_points(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(voxels, "_PENDING", pending)
    sums = VoxelMeans(0.5, "cloud")
    sums.add(np.array([[0.1, 0.2, 0.3], [-0.3, 0, 0]]), np.array([[1.0], [4.0]]), {"label": np.array([7, 1])})
    sums.add(np.array([[0.3, 0.3, 0.1], [0.2, 0.0, 0.2]]), np.array([[3.0], [5.0]]), {"label": np.array([2, 2])})
    points, means, votes = sums.result()
    np.testing.assert_allclose(points, [[-0.3, 0, 0], [0.2, 0.5 / 3, 0.2]], atol=1e-6)
    assert means.tolist() == [[4.0], [3.0]] and votes["label"].tolist() == [1, 2]
