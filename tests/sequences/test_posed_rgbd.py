import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import FREE, UNKNOWN
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.sequences.posed_rgbd import OCCUPIED, TRUNCATION, fuse_depth, fused_labels, resampled

CAMERA = Camera(40.0, 40.0, 31.5, 23.5, 64, 48)
GRID = VoxelGrid((-0.5, -0.5, 0.5), 0.1, (10, 10, 24))


def test_a_wall_is_occupied_free_before_it_and_unknown_behind() -> None:
    """A wall at z = 2 m: the voxels to both sides of it hold its surface. What one image alone saw is unknown."""
    seen = CAMERA, RigidTransform.identity(), np.full((48, 64), 2.0, np.float32)
    once, twice = (fused_labels(*fuse_depth([seen] * count, GRID)) for count in (1, 2))
    assert (once == UNKNOWN).all()
    assert twice[5, 5].tolist() == [FREE] * 14 + [OCCUPIED] * 2 + [UNKNOWN] * 8


def test_the_kernel_does_what_the_formula_says() -> None:
    rng = np.random.default_rng(1)
    depth = rng.uniform(1.0, 2.5, (48, 64)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = 0.0
    turn = RigidTransform.from_quaternion([0.05, 0.02, 0.0, 1.0], np.array([0.02, -0.05, 0.1]))
    distance, views = fuse_depth([(CAMERA, turn, depth)], GRID)
    points = turn.inverse().apply(GRID.centres().reshape(-1, 3))
    pixel = np.rint(points[:, :2] / points[:, 2:] * 40.0 + (31.5, 23.5)).astype(int)
    inside = (pixel >= 0).all(axis=1) & (pixel < (64, 48)).all(axis=1)
    seen = np.zeros(len(points))
    seen[inside] = depth[pixel[inside, 1], pixel[inside, 0]]
    before = (seen - points[:, 2]) / 0.1
    counts = (seen > 0.0) & (before >= -TRUNCATION)
    near = np.abs(np.abs(points[:, :2] / points[:, 2:] * 40.0 % 1.0 - 0.5)).min(axis=1) > 0.01  # no tie of rounding
    assert np.array_equal(views.reshape(-1)[near] > 0, counts[near])
    expected = np.where(counts, np.minimum(before, TRUNCATION), 0.0)
    assert distance.reshape(-1)[near] == pytest.approx(expected[near], abs=1e-3)


def test_a_larger_voxel_is_occupied_by_any_of_its_eighths_and_free_by_half_of_them() -> None:
    fine = np.full((4, 2, 2), UNKNOWN, np.uint8)
    fine[0, 0, 0] = OCCUPIED
    fine[2, :, :] = FREE
    grid, wanted = VoxelGrid((0.0, 0.0, 0.0), 0.1, (4, 2, 2)), VoxelGrid((0.0, 0.0, 0.0), 0.2, (3, 1, 1))
    assert resampled(fine, grid, wanted, RigidTransform.identity()).ravel().tolist() == [OCCUPIED, FREE, UNKNOWN]
