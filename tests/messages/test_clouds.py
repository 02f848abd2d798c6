"""Coordinates of PointCloud2 messages in several layouts."""

from typing import Any

import numpy as np
import pytest

from scene_completion_ros.bags.writer import header_fields
from scene_completion_ros.errors import BagError
from scene_completion_ros.messages.images import read_xyz
from tests.bags.recordings import START, make


def cloud(xyz: np.ndarray, *, kind: str = "<f4", point_step: int = 24, height: int = 1, row_padding: int = 0) -> Any:
    """PointCloud2 with z, y, x in this odd order, beginning at byte 0."""
    size = np.dtype(kind).itemsize
    points = np.zeros(len(xyz), {"names": list("zyx"), "formats": [kind] * 3, "itemsize": point_step})
    points["x"], points["y"], points["z"] = xyz.T
    data = np.pad(points.view(np.uint8).reshape(height, -1), ((0, 0), (0, row_padding)))
    fields = [
        {"name": axis, "offset": offset, "datatype": 7 if size == 4 else 8, "count": 1}
        for axis, offset in (("z", 0), ("y", size), ("x", 2 * size))
    ]
    return make(
        "sensor_msgs/PointCloud2",
        header=header_fields(START, "lidar"),
        height=height,
        width=len(xyz) // height,
        fields=fields,
        is_bigendian=kind.startswith(">"),
        point_step=point_step,
        row_step=data.shape[1],
        data=data.reshape(-1),
        is_dense=False,
    )


POINTS = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize(("height", "row_padding"), [(1, 0), (3, 0), (3, 5)])
def test_layouts(kind: str, height: int, row_padding: int) -> None:
    message = cloud(POINTS, kind=kind, point_step=26, height=height, row_padding=row_padding)
    np.testing.assert_array_equal(read_xyz(message), POINTS)


def test_points_that_are_not_finite_are_left_out() -> None:
    points = POINTS.copy()
    points[2, 1] = np.nan
    points[5, 0] = np.inf
    np.testing.assert_array_equal(read_xyz(cloud(points)), np.delete(POINTS, [2, 5], axis=0))
    assert read_xyz(cloud(POINTS[:0])).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"fields": cloud(POINTS).fields[1:]}, {}, "'z' is missing"),
        ({"data": cloud(POINTS).data[:-30]}, {}, "too little data"),
        ({"row_step": 1, "height": 1000}, {}, "too little data"),  # rows in each other: more points than memory
        ({}, {"offset": 22}, "offsets"),
        ({}, {"datatype": 4}, "datatype 4"),
    ],
)
def test_defects_are_named(changes: dict[str, Any], field: dict[str, int], words: str) -> None:
    message = cloud(POINTS, height=3)
    for part, values in ((message, changes), (message.fields[0], field)):
        for name, value in values.items():
            setattr(part, name, value)
    with pytest.raises(BagError, match=words):
        read_xyz(message)
