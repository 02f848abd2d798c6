"""Rigid transforms, named `target_from_source` so that `a_from_b @ b_from_c` reads right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

from scene_completion_ros.errors import SceneCompletionError

Array: TypeAlias = Any  # a NumPy array or torch tensor; functions return the kind, dtype and device they are given

Namespace: TypeAlias = Any  # the array API namespace of an `Array`


def floating(array: Array) -> tuple[Namespace, Array]:
    """Return the array's namespace and the array itself, integers turned into float64."""
    xp = array_namespace(array)
    if not xp.isdtype(array.dtype, "real floating"):
        array = xp.astype(array, xp.float64)
    return xp, array


def constant_like(values: Any, array: Array) -> Array:
    """Turn nested lists of numbers into an array of the kind, dtype and device of `array`."""
    return array_namespace(array).asarray(values, dtype=array.dtype, device=device(array))


QUATERNION_NORM_TOLERANCE = 1e-2  # quaternions whose length differs more than this from 1 are refused, as tf2 does

ROUNDING = 1e-3  # largest deviation of an element of RᵀR from the identity. Files with few decimals need some


class TransformError(SceneCompletionError):
    """A pose is not a rigid transform."""


LARGEST = 1e12  # of the numbers of a transform; what is computed of them stays finite


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """`p_target = rotation @ p_source + translation`. Raises TransformError for other shapes, NaN or infinity."""

    rotation: NDArray[np.float64]  # matrix [3, 3]
    translation: NDArray[np.float64]  # origin of the source frame in the target frame [3], metres

    def __post_init__(self) -> None:
        for name, shape in (("rotation", (3, 3)), ("translation", (3,))):
            array = np.array(getattr(self, name), dtype=np.float64)
            _check_array(array, shape, name)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def identity(cls) -> RigidTransform:
        """Return the transform that changes nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: ArrayLike) -> RigidTransform:
        """Build a transform from a homogeneous matrix; its rotation is made exactly orthonormal.

        Raises TransformError: not finite, not orthonormal within `ROUNDING`, a reflection, or a wrong last row.
        `matrix`: row-major [4, 4] or [3, 4].
        """
        array = np.asarray(matrix, dtype=np.float64)
        if array.shape not in ((3, 4), (4, 4)):
            shape = "x".join(map(str, array.shape)) or "a single number"
            raise TransformError(f"a rigid transform is a 4x4 or 3x4 matrix, not {shape}")
        _check_array(array, array.shape, "matrix")
        if array.shape == (4, 4) and not np.allclose(array[3], (0.0, 0.0, 0.0, 1.0), atol=ROUNDING):
            what = f"the last row of the matrix is {array[3].tolist()} instead of [0, 0, 0, 1]"
            raise TransformError(what, cure="Write the matrix row by row, the translation in the last column")
        return cls(_nearest_rotation(array[:3, :3]), array[:3, 3])

    @classmethod
    def from_quaternion(cls, quaternion_xyzw: ArrayLike, translation: ArrayLike) -> RigidTransform:
        """Build a transform from a unit quaternion (x, y, z, w, the order of ROS) and a translation [3] in metres.

        Raises TransformError: not finite, or the quaternion is not of unit length (zero in messages never filled).
        """
        quaternion = np.asarray(quaternion_xyzw, dtype=np.float64)
        _check_array(quaternion, (4,), "quaternion")
        norm = float(np.linalg.norm(quaternion))
        if abs(norm - 1.0) > QUATERNION_NORM_TOLERANCE:
            what = f"the quaternion {quaternion.tolist()} has length {norm:.4g} instead of 1"
            raise TransformError(what, cure="Normalise it; a zero quaternion is a message that was never filled in")
        return cls(Rotation.from_quat(quaternion).as_matrix(), np.asarray(translation, dtype=np.float64))

    @property
    def quaternion(self) -> NDArray[np.float64]:
        """Unit quaternion (x, y, z, w) with w ≥ 0."""
        rotation = self.rotation.copy()  # SciPy 1.11 takes no array that is read-only
        quaternion: NDArray[np.float64] = Rotation.from_matrix(rotation).as_quat()
        return -quaternion if quaternion[3] < 0.0 else quaternion

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Homogeneous matrix [4, 4]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def inverse(self) -> RigidTransform:
        """Return `source_from_target`."""
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """Chain: `a_from_b @ b_from_c` is `a_from_c`."""
        return RigidTransform(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: Array) -> Array:
        """Move points [..., 3] from the source into the target frame; keeps kind, dtype and device of the array."""
        xp, points = floating(points)
        assert points.shape[-1] == 3, f"points of shape {tuple(points.shape)}"
        transposed = constant_like(self.rotation.T.tolist(), points)
        return xp.matmul(points, transposed) + constant_like(self.translation.tolist(), points)

    def levelled(self) -> RigidTransform:
        """A camera's pose, of one where z is up, in a frame upright below it whose x is where it looks."""
        ahead = self.rotation[:, 2]
        cos, sin = np.array([ahead[0], ahead[1]]) / max(float(np.hypot(ahead[0], ahead[1])), 1e-12)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        return RigidTransform(turn @ self.rotation, self.translation * (0.0, 0.0, 1.0))

    def interpolate(self, other: RigidTransform, fraction: float) -> RigidTransform:
        """Move from this transform to another one: shortest rotation (slerp), straight translation.

        `other`: transform between the same frames; `fraction`: 0 gives this transform, 1 the other one.
        """
        assert 0.0 <= fraction <= 1.0, "poses are never extrapolated"
        turn = Slerp([0.0, 1.0], Rotation.from_matrix([self.rotation, other.rotation]))(fraction)
        translation = (1.0 - fraction) * self.translation + fraction * other.translation
        return RigidTransform(turn.as_matrix(), translation)


def _check_array(array: NDArray[np.float64], shape: Sequence[int], name: str) -> None:
    if array.shape != tuple(shape):
        raise TransformError(f"{name} has shape {list(array.shape)} instead of {list(shape)}")
    if not (np.abs(array) <= LARGEST).all():
        what = f"{name} holds NaN or numbers beyond {LARGEST:g}: {array.tolist()}"
        raise TransformError(what, cure="Drop this pose: its source (odometry, tf, poses file) had no valid estimate")


def _nearest_rotation(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project on the rotations (orthogonal Procrustes), refusing what is further away than rounding explains."""
    deviation = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if deviation > ROUNDING:
        what = f"the 3x3 part is not a rotation: RᵀR differs from the identity by {deviation:.3g}"
        raise TransformError(what, cure=f"Scale and shear are not rigid; at most {ROUNDING:g} is taken as rounding")
    if np.linalg.det(rotation) < 0.0:
        what = "the 3x3 part is a reflection (determinant -1)"
        raise TransformError(what, cure="Flip one axis: both frames must be right-handed")
    left, _, right = np.linalg.svd(rotation)
    return np.asarray(left @ right, dtype=np.float64)


# Takes axes x forward, y left, z up (grids, REP-103) to optical axes x right, y down, z forward.
OPTICAL_FROM_FORWARD = RigidTransform(np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]), np.zeros(3))


def rotation_of_angles(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Rotation [3, 3] about the fixed axes x (roll), then y (pitch), then z (yaw), radians, as in URDF and tf."""
    return about(2, yaw) @ about(1, pitch) @ about(0, roll)


def about(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation [3, 3] about axis 0, 1 or 2 by an angle in radians, by the right-hand rule."""
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first], turn[first, second] = cos, -sin
    turn[second, first], turn[second, second] = sin, cos
    return turn
