"""Coordinates out of `sensor_msgs/PointCloud2` messages."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BagError

_FLOATS = {7: "f4", 8: "f8"}  # sensor_msgs/PointField datatypes


def read_xyz(message: Any) -> NDArray[np.float32]:
    """The finite points of any PointCloud2, float32 [N, 3], metres, its frame. Raises BagError of `coordinates`."""
    views = coordinates(message)
    points = np.empty((*views[0].shape, 3), dtype=np.float32)
    for column, view in enumerate(views):
        points[..., column] = view
    flat = points.reshape(-1, 3)
    return flat[np.isfinite(flat).all(axis=1)]


def coordinates(message: Any) -> list[NDArray[Any]]:
    """Views of x, y, z, [height, width] each. Raises BagError: not such fields (named), or less data than promised."""
    order = ">" if message.is_bigendian else "<"
    fields = {field.name: field for field in message.fields}
    formats, offsets = [], []
    for axis in ("x", "y", "z"):
        field = fields.get(axis)
        if field is None or int(field.datatype) not in _FLOATS:
            kind = "missing" if field is None else f"of datatype {field.datatype}"
            raise BagError(f"field {axis!r} is {kind}", where="PointCloud2", cure="Expected float fields x, y, z")
        formats.append(order + _FLOATS[int(field.datatype)])
        offsets.append(int(field.offset))
    height, width = int(message.height), int(message.width)
    point_step, row_step = int(message.point_step), int(message.row_step)
    if height <= 1 or row_step == 0:
        row_step = point_step * width
    data = np.frombuffer(message.data, dtype=np.uint8)
    if height * width == 0:
        return [np.zeros((0, 0), dtype=np.float32)] * 3
    if point_step <= 0 or row_step < point_step * width or data.size < row_step * (height - 1) + point_step * width:
        what = f"too little data ({data.size} bytes; {height}x{width} points of {point_step} bytes, rows of {row_step})"
        raise BagError(what, where="PointCloud2, field data", cure="The message was cut short or its header is wrong")
    if any(offset + np.dtype(kind).itemsize > point_step for offset, kind in zip(offsets, formats, strict=True)):
        what = f"offsets {offsets} leave a point of {point_step} bytes"
        raise BagError(what, where="PointCloud2, field fields", cure="Check the driver that published it")
    strides = (row_step, point_step)
    return [
        np.ndarray((height, width), kind, buffer=data, offset=offset, strides=strides)
        for offset, kind in zip(offsets, formats, strict=True)
    ]
