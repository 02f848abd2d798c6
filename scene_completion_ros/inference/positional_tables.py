"""The positional part of the hidden layer as three one-dimensional tables.

The code gamma is separable in x~, y~ and z~, therefore W_gamma gamma(c) + b = A(x~) + B(y~) + C(z~). Each table is
sampled densely enough that linear interpolation is exact to a few 1e-5 in density. Tables of other units over the same
range have the same rows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.jit import aligned_empty

# Twice as many entries would no longer fit into a first-level cache for one cell of the feature map (measured: up
# to 1.9 times slower).
SPACING = 2.0 / 8192
MINIMUM_ENTRIES = 4096


@dataclass(frozen=True, eq=False)
class PositionalTables:
    """Tables of the code input's three coordinates over the range that is needed."""

    # x, y, z: float32 [entries, C]; the hidden bias is part of z.
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]
    low: NDArray[np.float64]  # first coordinate of each table, [3]
    scale: NDArray[np.float64]  # entries per unit of each coordinate, [3]

    @classmethod
    def build(
        cls,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        code: PointCodeSpec,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> "PositionalTables":
        """Tables of units.

        `weight`: W_gamma, float32 [C, 39]; `bias`: b, float32 [C]; `low`, `high`: range of code inputs [3] they cover.
        """
        tables = []
        scale = np.empty(3)
        for axis in range(3):
            extent = max(float(high[axis] - low[axis]), 1e-3)
            entries = max(MINIMUM_ENTRIES, math.ceil(extent / SPACING)) + 1
            values = low[axis] + np.linspace(0.0, extent, entries)
            scale[axis] = (entries - 1) / extent
            of_axis = weight[:, axis::3].astype(np.float64)  # [C, 13]
            # Chords lie inside the arc. Between entries at a spacing h, a sine of angular frequency f comes out too
            # small by up to (f h)^2 / 8. Raising it by half of that halves the error: 8.6e-6 at f = 48.
            phase = np.array([0.0, *np.repeat(code.frequencies, 2)]) / scale[axis]
            table = aligned_empty(entries, len(weight))
            table[:] = code.encode_axis(values) @ (of_axis * (1.0 + phase**2 / 16.0)).T
            tables.append(table)
        tables[2] += bias
        return cls(tables[0], tables[1], tables[2], np.asarray(low, dtype=np.float64), scale)

    def rows(self, coordinates: NDArray[np.float64]) -> NDArray[np.float32]:
        """Fractional row numbers of code inputs [N, 3] in the three tables, float32 [N, 3]."""
        return ((coordinates - self.low) * self.scale).astype(np.float32)
