"""Colours of depth, height and voxel states, without a plotting library at run time."""

from collections.abc import Sequence
from functools import cache
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import ArrayLike

from scene_completion_ros.arrays import Bytes, Doubles, Floats

# Keyed by the values of VoxelState; chosen to stay apart for colour-blind readers and on a white page.
STATE_COLOURS: MappingProxyType[int, tuple[int, int, int]] = MappingProxyType(
    {0: (250, 250, 250), 1: (214, 234, 214), 2: (246, 226, 200), 3: (0, 107, 164), 4: (230, 126, 34)}
)
STATE_NAMES: MappingProxyType[int, str] = MappingProxyType(
    {0: "unobserved", 1: "free (seen)", 2: "free (inferred)", 3: "surface", 4: "completed"}
)

# The road of a usual car rig lies at a quarter of it, light enough for black LiDAR points to be seen on it.
HEIGHT_RANGE = (-3.2, 2.6)
STREET_DEPTHS, ROOM_DEPTHS = (3.0, 80.0), (0.5, 10.0)  # metres between which colours tell depths apart


@cache
def _table(name: str) -> Bytes:
    """RGB table [256, 3] of an OpenCV colour map."""
    number: int = getattr(cv2, f"COLORMAP_{name}")
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    table: Bytes = np.ascontiguousarray(cv2.applyColorMap(ramp, number)[:, 0, ::-1], dtype=np.uint8)
    table.setflags(write=False)
    return table


def _look_up(name: str, fraction: Doubles) -> Bytes:
    position = np.clip(np.nan_to_num(fraction, nan=0.0) * 255.0, 0.0, 255.0)
    return _table(name)[np.rint(position).astype(np.uint8)]


def depth_colours(depth: ArrayLike, between: tuple[float, float] = STREET_DEPTHS) -> Bytes:
    """RGB uint8 [..., 3] of depths [...], metres: near bright yellow, far dark, by logarithm; else light grey."""
    values = np.asarray(depth, dtype=np.float64)
    known = np.isfinite(values) & (values > 0.0)
    nearest, farthest = between
    nearness = np.log(farthest / np.where(known, values, farthest)) / np.log(farthest / nearest)
    colours = _look_up("INFERNO", nearness)
    colours[~known] = (225, 225, 225)
    return colours


def height_colours(height: ArrayLike, *, low: float = HEIGHT_RANGE[0], high: float = HEIGHT_RANGE[1]) -> Bytes:
    """Colour heights from blue (low) over green and yellow to red (high). Returns RGB colours, uint8 [..., 3].

    `height`: heights in metres along the grid's z axis, any shape [...]; `low`: height in metres of the first colour;
    `high`: height in metres of the last colour.
    """
    return _look_up("TURBO", (np.asarray(height, dtype=np.float64) - low) / (high - low))


def spread_colour(number: int) -> tuple[int, int, int]:
    """RGB colour of a class by its number; it stays apart from those of the numbers before."""
    hue = (number * 0.61803398875) % 1.0  # the golden ratio spreads any count evenly over the circle
    red, green, blue = (np.clip(np.abs((hue * 6.0 + shift) % 6.0 - 3.0) - 1.0, 0.0, 1.0) for shift in (0.0, 4.0, 2.0))
    return int(60 + 180 * red), int(60 + 180 * green), int(60 + 180 * blue)


def class_colour_table(class_colours: Sequence[tuple[int, int, int]]) -> Bytes:
    """RGB table [256, 3] by label; labels without a colour of their own are mid grey."""
    table = np.full((256, 3), 128, dtype=np.uint8)
    table[: len(class_colours)] = np.asarray(class_colours, dtype=np.uint8).reshape(-1, 3)
    return table


def voxel_colours(label: Bytes, height: Floats, class_colours: Sequence[tuple[int, int, int]]) -> Bytes:
    """Colour voxels by class, or by height while the student knows only one class.

    A student without semantics would otherwise publish a uniformly grey cloud in which no shape can be read. Returns
    RGB colours, uint8 [N, 3]. `label`: labels [N]; `height`: heights in metres [N] along the grid's z axis.
    """
    return class_colour_table(class_colours)[label] if len(class_colours) > 1 else height_colours(height)
