"""Rigid transforms: worked numbers, conversions, files, and refusal of what is no pose."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from scene_completion_ros.geometry import RigidTransform, transforms
from scene_completion_ros.geometry.transforms import TransformError, rotation_of_angles


def rotation_about(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    unit = np.array(axis) / np.linalg.norm(axis)
    return cv2.Rodrigues(unit * math.radians(degrees))[0]


A_FROM_B = RigidTransform(rotation_about((0.3, -1.0, 0.5), 70.0), np.array([1.0, -2.0, 3.0]))


def test_inverse_undoes_and_identity_changes_nothing() -> None:
    np.testing.assert_allclose((A_FROM_B @ A_FROM_B.inverse()).matrix, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(A_FROM_B.inverse().matrix, np.linalg.inv(A_FROM_B.matrix), atol=1e-14)
    np.testing.assert_array_equal((RigidTransform.identity() @ A_FROM_B).matrix, A_FROM_B.matrix)


def test_apply_lets_gradients_through() -> None:
    points = torch.zeros((2, 3), dtype=torch.float64, requires_grad=True)
    A_FROM_B.apply(points)[:, 0].sum().backward()
    np.testing.assert_allclose(points.grad[0].numpy(), A_FROM_B.rotation[0])


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (-0.2, 0.9, 0.4)])
@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 120.0, 179.999, 180.0, -90.0])
def test_quaternion_round_trip(axis: tuple[float, float, float], degrees: float) -> None:
    transform = RigidTransform(rotation_about(axis, degrees), np.array([1.0, 2.0, 3.0]))
    quaternion = transform.quaternion
    half = math.radians(degrees) / 2
    expected = np.append(np.array(axis) / np.linalg.norm(axis) * math.sin(half), math.cos(half))
    assert abs(float(quaternion @ expected)) == pytest.approx(1.0, abs=1e-12)
    assert quaternion[3] >= 0.0
    back = RigidTransform.from_quaternion(quaternion, transform.translation)
    np.testing.assert_allclose(back.matrix, transform.matrix, atol=1e-12)


def test_a_quaternion_needs_no_new_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Ubuntu, 1.11, raises "buffer source array is read-only" for the arrays that transforms keep."""
    rotations: list[NDArray[Any]] = []

    def from_matrix(matrix: NDArray[Any]) -> Rotation:
        rotations.append(matrix)
        return Rotation.from_matrix(matrix)

    monkeypatch.setattr(transforms, "Rotation", SimpleNamespace(from_matrix=from_matrix))
    np.testing.assert_array_equal(RigidTransform.identity().quaternion, [0, 0, 0, 1])
    assert [rotation.flags.writeable for rotation in rotations] == [True]


@pytest.mark.parametrize(("first", "quarter", "last"), [(10.0, 20.0, 50.0), (170.0, 175.0, -170.0), (30.0, 30.0, 30.0)])
def test_interpolate_turns_evenly_the_short_way_and_moves_straight(first: float, quarter: float, last: float) -> None:
    start = RigidTransform(rotation_about((0, 0, 1), first), np.array([0.0, 0.0, 0.0]))
    end = RigidTransform(rotation_about((0, 0, 1), last), np.array([4.0, 8.0, -4.0]))
    found = start.interpolate(end, 0.25)
    np.testing.assert_allclose(found.rotation, rotation_about((0, 0, 1), quarter), atol=1e-12)
    np.testing.assert_allclose(found.translation, [1.0, 2.0, -1.0])
    np.testing.assert_allclose(start.interpolate(end, 0.0).matrix, start.matrix, atol=1e-14)
    np.testing.assert_allclose(start.interpolate(end, 1.0).matrix, end.matrix, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (RigidTransform.from_matrix, [np.eye(3)], "4x4 or 3x4"),
        (RigidTransform.from_matrix, [np.diag([2.0, 1.0, 1.0, 1.0])], "not a rotation"),
        (RigidTransform.from_matrix, [np.diag([1.0, 1.0, -1.0, 1.0])], "reflection"),
        (RigidTransform.from_matrix, [np.where(np.eye(4) > 0, np.nan, 0.0)], "NaN or numbers beyond"),
        (RigidTransform.from_matrix, [np.full((3, 4), np.inf)], "NaN or numbers beyond"),
        (RigidTransform.from_matrix, [A_FROM_B.matrix.T], "last row"),
        (RigidTransform.from_quaternion, [[0, 0, 0, 0], [0, 0, 0]], "length 0"),
        (RigidTransform.from_quaternion, [[0, 0, 0, 1.05], [0, 0, 0]], "length 1.05"),
        (RigidTransform.from_quaternion, [[0, 0, math.nan, 1], [0, 0, 0]], "quaternion holds NaN"),
        (RigidTransform.from_quaternion, [[0, 0, 0, 1], [0, math.nan, 0]], "translation holds NaN"),
        (RigidTransform.from_quaternion, [[0, 0, 1], [0, 0, 0]], "shape"),
    ],
)
def test_what_is_no_pose_is_refused(make: Callable[..., object], given: list[Any], message: str) -> None:
    with pytest.raises(TransformError, match=message):
        make(*given)


def test_angles_are_those_of_urdf() -> None:
    quarter = math.pi / 2
    np.testing.assert_allclose(rotation_of_angles(0, 0, quarter) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation_of_angles(0, quarter, 0) @ [1, 0, 0], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(rotation_of_angles(quarter, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    # About fixed axes, roll first: z turns to -y by the roll, and stays there when the yaw turns about z: to x.
    np.testing.assert_allclose(rotation_of_angles(quarter, 0, quarter) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
