import math

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.march import March, MarchResult
from scene_completion_ros.voxels.occupancy import Calibration, Thresholds
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.twins import march, sight, states

RAYS = Camera(fx=60.0, fy=60.0, cx=47.5, cy=23.5, width=96, height=48)
FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()
GRID = VoxelGrid((0.0, -10.0, -2.0), 0.2, (100, 100, 24))
TILTED = RigidTransform.from_quaternion(
    np.array([0.03, 0.04, -0.02, 1.0]) / np.linalg.norm([0.03, 0.04, -0.02, 1.0]), (0.3, 0.2, -1.0)
)
POSES = {
    "default": FORWARD,
    "tilted": FORWARD @ TILTED,
    "yaw 90 degrees": FORWARD
    @ RigidTransform.from_quaternion((0, 0, math.sqrt(0.5), math.sqrt(0.5)), (5.0, -9.0, 0.1)),
    "far behind the grid": FORWARD @ RigidTransform(np.eye(3), np.array([12.0, 0.5, 0.0])),
}


def both(
    alpha: np.ndarray,
    pose: RigidTransform = FORWARD,
    grid: VoxelGrid = GRID,
    camera: Camera = RAYS,
    occupied_from: float = 0.5,
) -> list[MarchResult]:
    expected = march(alpha, alpha >= np.float32(occupied_from), grid, pose, camera)
    return [expected, March(grid, pose, camera, occupied_from)(alpha)]


def in_view(grid: VoxelGrid, pose: RigidTransform) -> np.ndarray:
    return np.asarray(RAYS.project(pose.apply(grid.centres().astype(np.float64)))[1])


@pytest.mark.parametrize("opacity", [0.05, 0.1, 0.2, 0.3, 1.0])
def test_nothing_is_seen_through_a_wall_of_any_opacity(opacity: float) -> None:
    """Surfaces of a trained network are far from opaque; what is behind them is hidden all the same."""
    calibration = Calibration("piecewise_linear", (0.0, 0.02, 0.06), (0.0, 0.3, 0.9))
    occupied_from = calibration.occupied_from(0.5)
    alpha = np.full(GRID.shape, 0.001, dtype=np.float32)
    alpha[40:43] = opacity
    alpha[60:63] = opacity
    view = in_view(GRID, FORWARD)
    classify = VoxelClassifier(GRID, FORWARD, RAYS, view, calibration, Thresholds(0.5, 0.5))
    core = np.s_[:, 45:55, 7:13]
    for result in both(alpha, occupied_from=float(occupied_from)):
        middle = np.s_[22:26, 46:50]
        assert np.all((result.transmittance[middle] > 0.05) == (opacity < 1.0))  # rays as such go on
        assert np.all(np.abs(result.half_distance[middle] - 8.1) < 0.15)
        _, state = classify(alpha, result.half_distance)
        for planes, expected in (
            (slice(0, 40), VoxelState.FREE_SEEN),
            (slice(40, 41), VoxelState.SURFACE),
            (slice(41, 43), VoxelState.COMPLETED),
            (slice(43, 60), VoxelState.FREE_INFERRED),
            (slice(60, 63), VoxelState.COMPLETED),
            (slice(63, 100), VoxelState.FREE_INFERRED),
        ):
            assert np.all(state[core][planes][view[core][planes]] == expected), expected


def test_nothing_is_seen_behind_what_is_not_a_number() -> None:
    alpha = np.zeros(GRID.shape, dtype=np.float32)
    alpha[40] = np.nan
    for result in both(alpha):
        assert np.all(np.abs(result.half_distance[22:26, 46:50] - 8.1) < 0.15)


def test_a_thin_volume_attenuates_like_its_geometric_series() -> None:
    alpha = np.full(GRID.shape, 0.01, dtype=np.float32)
    rays = Camera(fx=60.0, fy=60.0, cx=0.0, cy=0.0, width=1, height=1)  # one ray, straight ahead through 100 voxels
    grid = VoxelGrid((0.0, -9.9, -2.1), 0.2, GRID.shape)
    n = np.arange(100)
    expected = np.sum(0.99**n * 0.01 * (n + 0.5) * 0.2) + 0.99**100 * 20.0
    for result in both(alpha, FORWARD, grid, rays):
        np.testing.assert_allclose(result.depth, expected, rtol=1e-5)
        np.testing.assert_allclose(result.transmittance, 0.99**100, rtol=1e-5)
        # 0.99^68 > 0.5 > 0.99^69: the 69th step
        np.testing.assert_allclose(result.half_distance, 68.5 * 0.2, rtol=1e-6)


@pytest.mark.parametrize("name", POSES)
@pytest.mark.parametrize("density", [0.03, 0.3, 1.0])
def test_kernel_agrees_with_the_reference(name: str, density: float) -> None:
    rng = np.random.default_rng(0)
    alpha = (density * rng.random(GRID.shape) ** 6).astype(np.float32)
    pose = POSES[name]
    calibration = Calibration("piecewise_linear", (0.0, 0.1, 0.2, 0.9), (0.0, 0.4, 0.8, 1.0))
    occupied = calibration.apply(alpha) >= 0.5
    expected = march(alpha, occupied, GRID, pose, RAYS)
    result = March(GRID, pose, RAYS, calibration.occupied_from(0.5))(alpha)
    # A position within rounding of a voxel's side may fall to either voxel: rare, and felt by one step only.
    for field in ("depth", "half_distance", "transmittance"):
        a, b = getattr(expected, field), getattr(result, field)
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(a)
        assert np.count_nonzero(np.abs(a[finite] - b[finite]) > 1e-3) < 0.01 * a.size
    view = in_view(GRID, pose)
    assert view.any()
    expected_state = states(occupied, view, expected.half_distance, GRID, pose, RAYS)
    classify = VoxelClassifier(GRID, pose, RAYS, view, calibration, Thresholds(0.5, 0.5))
    probability, state = classify(alpha, expected.half_distance)
    np.testing.assert_allclose(probability, np.where(view, calibration.apply(alpha), 0.0), atol=1e-6)
    assert np.mean(state[view] != expected_state[view]) < 1e-3
    np.testing.assert_array_equal(state == VoxelState.UNOBSERVED, ~view)
    assert np.unique(state[view]).size >= (4 if density == 1.0 else 2 if density == 0.3 else 1)


@pytest.mark.parametrize("name", POSES)
def test_sight_kernel_agrees_with_the_reference(name: str) -> None:
    """A student that predicts depth: the ray ends there, or in an occupied voxel before."""
    rng = np.random.default_rng(1)
    alpha = (rng.random(GRID.shape) ** 30).astype(np.float32)
    depth = rng.uniform(2.0, 40.0, (RAYS.height, RAYS.width)).astype(np.float32)
    pose = POSES[name]
    stands = np.indices(GRID.shape)[2] > GRID.shape[2] // 2  # above, less is enough
    expected = sight(depth, alpha >= np.where(stands, np.float32(0.1), np.float32(0.5)), GRID, pose, RAYS, 35.0)
    found = March(GRID, pose, RAYS, 0.5, far=35.0, obstacle_from=0.1)(alpha, depth, stands)
    np.testing.assert_array_equal(found.depth, depth)
    np.testing.assert_array_equal(found.transmittance, depth >= 35.0)
    np.testing.assert_array_equal(found.transmittance, expected.transmittance)
    ends = np.isfinite(expected.half_distance)
    assert np.mean(ends != np.isfinite(found.half_distance)) < 0.01
    both_end = ends & np.isfinite(found.half_distance)
    assert np.mean(np.abs(found.half_distance - expected.half_distance)[both_end] > 1e-3) < 0.01
    cosine = 1.0 / np.linalg.norm(RAYS.unproject(RAYS.pixel_centres()), axis=-1)
    at_depth = np.isclose(expected.half_distance * cosine, depth, rtol=1e-5)
    assert both_end.any()
    assert at_depth[both_end].any()
    assert not at_depth[both_end].all()


def test_without_a_predicted_depth_nothing_is_seen() -> None:
    """Every second column is no number: kernels and references agree on what is seen between."""
    depth = np.full((RAYS.height, RAYS.width), 9.03, np.float32)
    depth[:, ::2] = np.nan
    occupied = np.zeros(GRID.shape, np.bool_)
    occupied[40:42] = True
    alpha, view = occupied.astype(np.float32), in_view(GRID, FORWARD)
    expected = sight(depth, occupied, GRID, FORWARD, RAYS, 80.0)
    found = March(GRID, FORWARD, RAYS, 0.5)(alpha, depth)
    met = np.isfinite(expected.half_distance)
    assert (expected.half_distance[:, ::2][met[:, ::2]] == 0.0).all()
    np.testing.assert_allclose(found.half_distance, expected.half_distance, rtol=1e-5)
    classify = VoxelClassifier(GRID, FORWARD, RAYS, view, Calibration(), Thresholds(0.5, 0.5))
    state = classify(alpha, found.half_distance)[1]
    wanted = states(occupied, view, expected.half_distance, GRID, FORWARD, RAYS)
    assert np.mean(state[view] != wanted[view]) < 5e-3  # where a voxel projects half way between two columns
    assert (state == VoxelState.SURFACE).any()
