"""What one LiDAR scan knows of voxels, by hand and by a twin of the kernel."""

import numpy as np
import pytest

from scene_completion_ros.evaluation.scan_voxels import (
    MARGIN_M,
    OCCUPIED,
    STEP_M,
    grazed,
    ground_of_scans,
    scan_labels,
    scan_truth,
)
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, VoxelGrid

GRID = VoxelGrid((0.0, -0.5, -0.5), 0.5, (8, 2, 2))


def test_one_ray_by_hand() -> None:
    """Along x from -0.2 m to 2.85 m: places at 2.25, 1.95, ... 0.15 m; the return lies in the sixth voxel."""
    labels = scan_labels(np.array([[2.85, 0.1, 0.1]]), np.array([-0.2, 0.1, 0.1]), GRID)
    assert labels[:, 1, 1].tolist() == [FREE] * 5 + [OCCUPIED] + [UNKNOWN] * 2
    assert (labels[:, 0] == UNKNOWN).all() and (labels[:, 1, 0] == UNKNOWN).all()


def marched(points: np.ndarray, sensor: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """The readable twin: all places of a ray at once."""
    labels = np.full(grid.shape, UNKNOWN, np.uint8)
    for point in points:
        length = np.linalg.norm(point - sensor)
        away = np.arange(length - MARGIN_M, 0.0, -STEP_M)
        if len(away):
            cells, inside = grid.index_of(sensor + away[:, None] * (point - sensor) / length)
            labels[tuple(cells[inside].T)] = FREE
    cells, inside = grid.index_of(points)
    labels[tuple(cells[inside].T)] = OCCUPIED
    return labels


def test_the_kernel_does_what_its_twin_says() -> None:
    rng = np.random.default_rng(0)
    grid = VoxelGrid((0.0, -6.4, -2.2), 0.2, (64, 64, 32))
    points, sensor = rng.uniform((-4.0, -9.0, -3.0), (20.0, 9.0, 5.0), (500, 3)), np.array([-0.27, 0.02, 0.13])
    points[0] = sensor  # a return of no length
    np.testing.assert_array_equal(scan_labels(points, sensor, grid), marched(points, sensor, grid))


def test_the_ground_is_the_lowest_that_rises_slowly() -> None:
    """A road that climbs by 5 %, a block without returns, and one that only shows the roof of a car."""
    x, y = (part.ravel() for part in np.meshgrid(np.arange(0.1, 50.0, 0.2), np.arange(-6.3, 6.4, 0.2)))
    z = 0.05 * x - 1.7
    on_car = (x > 8.0) & (x < 9.6) & (y > 0.0) & (y < 1.6)
    seen = ~((x > 16.0) & (x < 17.6) & (y > 0.0) & (y < 1.6))
    points = np.stack([x, y, np.where(on_car, z + 1.4, z)], axis=-1)[seen]
    points = np.concatenate([points, points[::7] + (0.0, 0.0, 2.0)])  # crowns above it
    grid = VoxelGrid((0.0, -6.4, -2.2), 0.2, (256, 64, 32))
    ground = ground_of_scans(points, grid)
    assert np.isnan(ground[40:48, 32:40]).all() and np.isnan(ground[80:88, 32:40]).all()
    assert np.isnan(ground[201:]).all() and np.isfinite(ground[:192]).mean() > 0.98  # 40 m away at most
    assert ground[8:16, 0] == pytest.approx([0.05 * 2.4 - 1.7] * 8, abs=0.05)
    below = grazed(ground, grid)
    top = -2.2 + 0.2 * below.sum(axis=2)
    assert top[:192, 0] == pytest.approx(0.05 * (np.arange(192) + 0.5) * 0.2 - 1.7, abs=0.35)
    assert top[44, 36] == pytest.approx(top[44, 28], abs=0.2)  # below the car it lies as next to it
    assert not grazed(np.full((256, 64), np.nan, np.float32), grid).any()


def test_voxels_of_a_scan_before_a_camera() -> None:
    """A wall 10 m ahead of a camera 1.65 m above a road: known are the wall, the road, and air above it."""
    camera = Camera(100.0, 100.0, 99.5, 49.5, 200, 100)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(3.0, 9.9, 0.15), np.arange(-4.0, 4.0, 0.15)))
    road = np.stack([x, y, np.full(len(x), -1.65)], axis=-1)
    y, z = (part.ravel() for part in np.meshgrid(np.arange(-4.0, 4.0, 0.15), np.arange(-1.5, 2.5, 0.15)))
    wall = np.stack([np.full(len(y), 10.1), y, z], axis=-1)
    to_optical = DEFAULT_GRID_FROM_CAMERA.inverse()
    truth = scan_truth(to_optical.apply(np.concatenate([road, wall])), to_optical.apply(np.zeros(3)), camera)

    assert truth.occupied[50, 118:138, 4:20].mean() > 0.9 and truth.occupied[20:48, 128, 2].mean() > 0.9
    assert truth.free[20:45, 124:132, 8:14].mean() > 0.5  # between the places along rays of one length there are gaps
    assert not truth.known[51:, :, 11:].any() and not truth.free[..., :3].any()
    assert set(truth.regions) == {"all"} and truth.label is None
