"""The plane of a road below a camera: its angles, its motion, and what two sources say of it together."""

import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.road_plane import STATED, RoadPlane, normal, normal_slopes
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, about, rotation_of_angles

CERTAIN = np.eye(3) * 1e-6


def test_roll_lowers_the_right_side_and_pitch_looks_down() -> None:
    rolled, pitched = normal(0.1, 0.0), normal(0.0, 0.1)
    assert rolled[0] == pytest.approx(np.sin(0.1)) and rolled[2] == 0.0  # the road comes nearer on the right
    assert pitched[2] == pytest.approx(np.sin(0.1)) and pitched[0] == 0.0  # and ahead


def test_a_plane_is_that_of_its_mounting() -> None:
    turn = rotation_of_angles(0.05, 0.2, 0.0)
    pose = RigidTransform(turn, np.array([0.0, 0.0, 1.3])) @ OPTICAL_FROM_FORWARD.inverse()
    plane = RoadPlane.of_mounting(RigidTransform(about(2, 0.7), np.array([4.0, 5.0, 0.0])) @ pose)  # wherever it looks
    assert (plane.roll, plane.pitch, plane.height) == pytest.approx((0.05, 0.2, 1.3))
    np.testing.assert_allclose(plane.upright_from_camera.matrix, pose.matrix, atol=1e-12)
    np.testing.assert_allclose(plane.down, -pose.rotation[2])
    np.testing.assert_allclose(plane.deviations, STATED)


def test_slopes_of_the_normal_are_its_differences() -> None:
    step = 1e-6
    for axis in range(2):
        off = np.eye(2)[axis] * step
        slope = (normal(0.1 + off[0], 0.3 + off[1]) - normal(0.1 - off[0], 0.3 - off[1])) / (2.0 * step)
        np.testing.assert_allclose(normal_slopes(0.1, 0.3)[axis], slope, atol=1e-9)


def test_a_camera_that_moves_keeps_the_plane() -> None:
    """It rises by 0.2 m, drives 3 m down a grade that it looks along, and rolls."""
    world = rotation_of_angles(0.0, 0.1, 0.0)
    then = RigidTransform(world, np.array([0.0, 0.0, 1.5])) @ OPTICAL_FROM_FORWARD.inverse()
    now = RigidTransform(world @ about(0, 0.04), np.array([3.0, 0.4, 1.7])) @ OPTICAL_FROM_FORWARD.inverse()
    moved = RoadPlane.of_mounting(then).moved(now.inverse() @ then)
    assert (moved.roll, moved.pitch, moved.height) == pytest.approx((0.04, 0.1, 1.7))


def test_the_surer_of_two_planes_counts_more() -> None:
    """Variances of 1 and 3: a quarter of the way, and a variance of 3 / 4."""
    one = RoadPlane(0.0, 0.0, 1.0, CERTAIN)
    two = RoadPlane(0.04, 0.08, np.exp(0.02), 3.0 * CERTAIN)
    joined = one.joined(two)
    np.testing.assert_allclose(joined.state, [0.01, 0.02, 0.005], atol=1e-12)
    np.testing.assert_allclose(joined.covariance, 0.75 * CERTAIN)
