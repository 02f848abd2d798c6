"""The 24-byte point layout of published voxels and the legend of their labels: one definition for DDS, bags, reports.

Knows nothing of ROS. The fields are named and numbered as ``sensor_msgs/PointField`` wants them. The points are a NumPy
structured array whose bytes are the message's ``data``. ``cloud_kernel`` writes them.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


def _point(members: str) -> np.dtype[np.void]:
    """A point of 24 bytes: members one after the other, and room up to a multiple of four bytes."""
    return np.dtype([(name, kind) for kind, name in map(str.split, members.split(", "))], align=True)


# "rgb" holds 0x00RRGGBB; the message declares it FLOAT32 (same bytes), which is what RViz and PCL expect of that name.
VOXEL_CLOUD_DTYPE = _point("<f4 x, <f4 y, <f4 z, <u4 rgb, <f4 probability, u1 label, u1 state, u1 confidence")
# Voxels that answer a query: centre, contrast with the phrase, probability, and the number of the phrase.
MATCH_CLOUD_DTYPE = _point("<f4 x, <f4 y, <f4 z, <f4 score, <f4 probability, u1 phrase")
POINT_FIELD_UINT8, POINT_FIELD_FLOAT32 = 2, 7  # sensor_msgs/PointField constants


def _fields(layout: np.dtype[Any]) -> tuple[tuple[str, int, int, int], ...]:
    """Name, offset, datatype and count of every PointField, in the order of the message."""
    assert layout.fields is not None
    return tuple(
        (name, column[1], POINT_FIELD_UINT8 if column[0] == np.uint8 else POINT_FIELD_FLOAT32, 1)
        for name, column in layout.fields.items()
    )


VOXEL_CLOUD_FIELDS, MATCH_CLOUD_FIELDS = _fields(VOXEL_CLOUD_DTYPE), _fields(MATCH_CLOUD_DTYPE)


def legend_json(
    class_names: Sequence[str], class_colours: Sequence[tuple[int, int, int]], text_bank_sha256: str = ""
) -> str:
    """What the labels of points mean, as published with them.

    Returns JSON: ``{"class_names": ["road", …], "class_colours": [[128, 64, 128], …]}``, and ``text_bank_sha256`` where
    there is one. `class_colours`: RGB colours (0..255) by label; `text_bank_sha256`: hash of the text bank that a
    vocabulary is from; empty where labels are the student's own.
    """
    legend = {"class_names": list(class_names), "class_colours": [list(colour) for colour in class_colours]}
    return json.dumps({**legend, "text_bank_sha256": text_bank_sha256} if text_bank_sha256 else legend)


def cloud_array_from_message(message: Any) -> NDArray[np.void]:
    """A PointCloud2 as [N] of ``VOXEL_CLOUD_DTYPE``. Raises SceneCompletionError where it has another layout."""
    return _points_of(message, VOXEL_CLOUD_DTYPE)


def match_array_from_message(message: Any) -> NDArray[np.void]:
    """Voxels that answer a query, [M] of ``MATCH_CLOUD_DTYPE``; argument and errors as `cloud_array_from_message`."""
    return _points_of(message, MATCH_CLOUD_DTYPE)


def _points_of(message: Any, dtype: np.dtype[Any]) -> NDArray[np.void]:
    fields = tuple((field.name, field.offset, field.datatype, field.count) for field in message.fields)
    if message.point_step != dtype.itemsize or fields != _fields(dtype) or message.is_bigendian:
        what = f"the cloud has {message.point_step} bytes a point and the fields {[name for name, *_ in fields]}"
        cure = "Only clouds published by scene_completion_node have the voxel layout; check the topic"
        raise SceneCompletionError(what, where="PointCloud2.fields", cure=cure)
    return np.frombuffer(bytes(memoryview(message.data)), dtype=dtype)


def cloud_array_to_voxels(
    cloud: NDArray[np.void],  # structured array [N] of ``VOXEL_CLOUD_DTYPE``, optical frame
    grid: VoxelGrid,  # grid the sender queried
    grid_from_camera: RigidTransform,
    *,
    stamp_ns: int = 0,
    class_names: Sequence[str] = ("unlabelled",),
    class_colours: Sequence[tuple[int, int, int]] = ((128, 128, 128),),
) -> SemanticVoxels:
    """Put received points back onto their grid.

    A cloud holds only occupied voxels, so every other voxel of the result is ``UNOBSERVED``: it serves reports and
    tests, not free space. Returns the voxels inside the grid.
    """
    points_camera = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1).astype(np.float64)
    index, inside = grid.index_of(grid_from_camera.apply(points_camera))
    index = np.asarray(index)[inside]
    kept = cloud[np.asarray(inside)]
    state = np.full(grid.shape, VoxelState.UNOBSERVED, dtype=np.uint8)
    state[tuple(index.T)] = kept["state"]
    return SemanticVoxels(
        grid=grid,
        grid_from_camera=grid_from_camera,
        stamp_ns=stamp_ns,
        state=state,
        index=index.astype(np.int32),
        probability=np.ascontiguousarray(kept["probability"], dtype=np.float32),
        label=np.ascontiguousarray(kept["label"]),
        confidence=kept["confidence"].astype(np.float32) / np.float32(255.0),
        class_names=tuple(class_names),
        class_colours=tuple(class_colours),
    )
