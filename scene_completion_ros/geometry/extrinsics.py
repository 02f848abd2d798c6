"""Fixed transforms between frames, as people write them down: angles, and files of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, TransformError
from scene_completion_ros.untrusted_files import read_yaml, shown

_KEYS = ("parent", "child", "translation", "rotation", "angles", "optical")
_EXAMPLE = "Write a list of `{parent: base_link, child: front_optical, translation: [x, y, z], angles: [r, p, y]}`"


@dataclass(frozen=True, eq=False)
class Extrinsic:
    """A fixed transform between two frames."""

    parent: str  # frame that it maps into
    child: str  # frame that it maps from
    parent_from_child: RigidTransform


def rotation_of_angles(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Rotation [3, 3] about the fixed axes x (roll), then y (pitch), then z (yaw), radians, as in URDF and tf."""
    return _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)


def read_extrinsics(path: str | Path) -> list[Extrinsic]:
    """Read fixed transforms from a YAML file.

    `path`: a list of mappings with `parent`, `child` and `translation` (3 numbers, metres). Each also has either
    `rotation` (unit quaternion x, y, z, w) or `angles` (roll, pitch, yaw in degrees). With `optical: true` they say how
    the body of the camera stands (x forward, y left, z up). The child is its optical frame (x right, y down, z
    forward). Raises TransformError: the file cannot be read, or an entry lacks something or is malformed: names file
    and entry.
    """
    document = read_yaml(path, TransformError, cure=_EXAMPLE, kind=list)
    if not document:
        raise TransformError("is an empty list", where=str(path), cure=_EXAMPLE)
    return [_extrinsic(entry, f"{path}, entry {number}") for number, entry in enumerate(document, start=1)]


def _extrinsic(entry: object, where: str) -> Extrinsic:
    if not isinstance(entry, Mapping):
        raise TransformError(f"{shown(entry)} is no mapping", where=where, cure=_EXAMPLE)
    unknown = sorted(set(map(str, entry)) - set(_KEYS))
    if unknown:
        raise TransformError(f"unknown key {', '.join(unknown)}", where=where, cure=f"Use {', '.join(_KEYS)}")
    parent, child = (_frame(entry, key, where) for key in ("parent", "child"))
    if parent == child:
        raise TransformError(f"{parent} is its own parent", where=where, cure=_EXAMPLE)
    if ("rotation" in entry) == ("angles" in entry):
        raise TransformError("needs one of rotation and angles", where=where, cure=_EXAMPLE)
    translation = _numbers(entry, "translation", 3, where)
    try:
        if "rotation" in entry:
            pose = RigidTransform.from_quaternion(_numbers(entry, "rotation", 4, where), translation)
        else:
            roll, pitch, yaw = np.radians(_numbers(entry, "angles", 3, where)).tolist()
            pose = RigidTransform(rotation_of_angles(roll, pitch, yaw), translation)
    except TransformError as error:
        raise TransformError(error.what, where=error.where or where, cure=error.cure) from None
    optical = entry.get("optical", False)
    if not isinstance(optical, bool):
        raise TransformError(f"optical must be true or false, not {shown(optical)}", where=where)
    return Extrinsic(parent, child, pose @ OPTICAL_FROM_FORWARD.inverse() if optical else pose)


def _frame(entry: Mapping[Any, Any], key: str, where: str) -> str:
    name = entry.get(key)
    if not isinstance(name, str) or not name.strip("/"):
        raise TransformError(f"{key} must name a frame, not {shown(name)}", where=where, cure=_EXAMPLE)
    return name.strip("/")


def _numbers(entry: Mapping[Any, Any], key: str, count: int, where: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(entry.get(key), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise TransformError(f"{key} must be {count} finite numbers, not {shown(entry.get(key))}", where=where)
    return values


def _about(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation [3, 3] about an axis by the right-hand rule."""
    cos, sin = math.cos(angle), math.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first], turn[first, second] = cos, -sin
    turn[second, first], turn[second, second] = sin, cos
    return turn
