import math

import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, RigidTransform, VoxelGrid
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.query_kernel import VoxelQuery
from tests.inference.small_bundle import CANONICAL, random_features, random_head
from tests.inference.twins import density_reference

CODE = PointCodeSpec()
FEATURE_SIZE = (96, 320)
# Denser than a trained field, so that differences show.
DENSITY_HEAD = random_head()


def rotation(axis: int, degrees: float) -> RigidTransform:
    half = math.radians(degrees) / 2.0
    quaternion = [0.0, 0.0, 0.0, math.cos(half)]
    quaternion[axis] = math.sin(half)
    return RigidTransform.from_quaternion(quaternion, (0.0, 0.0, 0.0))


FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()
TILTED = rotation(0, 3.0) @ rotation(2, 2.0) @ FORWARD
SHIFT = RigidTransform(np.eye(3), np.array([0.4, -1.1, 0.7]))
AROUND = VoxelGrid((-12.8, -12.8, -3.0), 0.4, (64, 64, 16))
AHEAD = VoxelGrid((0.0, -12.8, -2.2), 0.4, (64, 64, 16))
CASES = {
    "default pose": (AHEAD, FORWARD),
    "pitch 3 and roll 2 degrees": (AHEAD, TILTED),
    "yaw 90 degrees, reaching behind the camera": (AROUND, TILTED @ rotation(2, 90.0) @ SHIFT),
    "beyond the depths of the code": (VoxelGrid((60.0, -12.8, -2.2), 0.4, (64, 64, 16)), FORWARD),
    "optical axes": (VoxelGrid((-6.0, -3.0, -4.0), 0.4, (30, 15, 60), "optical"), RigidTransform.identity()),
}


@pytest.mark.parametrize("extrapolate", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_density_agrees_with_the_reference(case: str, extrapolate: bool) -> None:
    grid, camera_from_grid = CASES[case]
    features = random_features()
    query = VoxelQuery(DENSITY_HEAD, CODE, CANONICAL, FEATURE_SIZE, grid, camera_from_grid, extrapolate=extrapolate)
    density = query.density(features)
    centres = np.stack(np.meshgrid(*grid.axis_centres(), indexing="ij"), axis=-1)
    points = np.asarray(camera_from_grid.apply(centres.reshape(-1, 3)))
    in_image, known = CANONICAL.project(points)[1], points[:, 2] <= CODE.far
    in_view = (in_image & known).reshape(grid.shape)
    np.testing.assert_array_equal(query.in_view, in_view)
    assert query.too_far == (in_image & ~known).sum()
    assert 0.02 < in_view.mean() < 0.98
    expected = density_reference(features, points, DENSITY_HEAD, CODE, CANONICAL).reshape(grid.shape)
    assert expected.std() > 0.5
    if not extrapolate:
        expected = np.where(in_view, expected, 0.0)
        assert np.all(density[~in_view] == 0.0)
    np.testing.assert_allclose(density, expected, atol=1e-4, rtol=0.0)


def test_opacity_is_that_of_one_voxel_edge() -> None:
    query, features = VoxelQuery(DENSITY_HEAD, CODE, CANONICAL, FEATURE_SIZE, AHEAD, FORWARD), random_features()
    density = query.density(features).astype(np.float64)
    np.testing.assert_allclose(query.opacity(features), -np.expm1(-0.4 * density), atol=1e-6)
