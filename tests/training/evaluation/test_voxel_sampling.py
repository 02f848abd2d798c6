"""How a field is read at voxels: opacities as weights, and which voxels are occupied, by hand."""

import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_training.evaluation.density_model import Observation
from scene_completion_training.evaluation.semantic_models import SemanticObservation
from scene_completion_training.evaluation.voxel_sampling import SAMPLINGS, elected

GRID = VoxelGrid((0.0, 0.0, 0.0), 0.2, (5, 3, 3))
CAMERA = Camera(10.0, 10.0, 5.0, 5.0, 11, 11)


def truth(known: np.ndarray | None = None) -> VoxelTruth:
    everywhere = np.ones(GRID.shape, bool)
    known = everywhere if known is None else known
    return VoxelTruth("made up", GRID, RigidTransform.identity(), ~everywhere, known, everywhere)


def field(density: np.ndarray, label: np.ndarray) -> SemanticObservation:
    """A field whose density and label are those of cells of 0.1 m, [10, 6, 6]."""

    def cell(points: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.floor(points / 0.1).astype(int).T)

    sight = Observation(CAMERA, lambda points: density[cell(points)].astype(np.float32))
    return SemanticObservation(sight, lambda points: np.eye(3, dtype=np.float32)[label[cell(points)]])


def test_eight_points_are_weighted_by_the_opacity_of_half_a_voxel() -> None:
    """Seven thin points for one class, one dense point for another: 7·(1 - exp(-0.1·0.5)) < 1 - exp(-0.1·5)."""
    thin, dense = 1.0 - np.exp(-0.1 * 0.5), 1.0 - np.exp(-0.1 * 5.0)
    assert thin == pytest.approx(0.0488, abs=1e-4) and dense == pytest.approx(0.3935, abs=1e-4)
    votes = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 0, 0, 0, 1] * 3]
    weights = np.array([[thin] * 7 + [dense], [thin] * 7 + [7.01 * thin], [thin] * 7 + [6.99 * thin]])
    np.testing.assert_array_equal(elected(votes, weights), [1, 1, 0])
    # Shares of classes count as such: two halves are as much as one whole; without any weight all points weigh alike.
    np.testing.assert_array_equal(elected(np.array([[0.6, 0.4], [0.1, 0.9]], np.float32), np.array([[1.0, 0.5]])), [1])
    np.testing.assert_array_equal(elected(votes[:8], np.zeros((1, 8))), [0])


def test_a_voxel_of_eight_points() -> None:
    """As computed by hand above, from a field; the densest point says whether it is occupied, also its neighbours."""
    density, label = np.zeros((10, 6, 6)), np.full((10, 6, 6), 2)
    density[:2, 2:4, 2:4], label[:2, 2:4, 2:4] = 0.1, 0
    density[1, 3, 3], label[1, 3, 3] = 5.0, 1
    volume = SAMPLINGS["s4c"].labels(field(density, label), lambda codes: codes, truth())
    expected = np.zeros(GRID.shape, np.uint8)
    expected[:2] = 3  # neighbours are occupied, and each keeps its own class
    expected[0, 1, 1] = 2  # 0.3935 of class 1 against 7 · 0.00995
    np.testing.assert_array_equal(volume, expected)
    density[1, 3, 3] = 0.249  # the densest point no longer reaches 0.25
    assert not SAMPLINGS["s4c"].labels(field(density, label), lambda codes: codes, truth()).any()
    density[1, 3, 3] = 0.25
    assert (SAMPLINGS["s4c"].labels(field(density, label), lambda codes: codes, truth()) > 0).sum() == 2 * 9
