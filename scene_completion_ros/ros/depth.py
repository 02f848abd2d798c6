"""Depth as it is published and drawn; needs no ROS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_TRANSMITTANCE = 0.5


def depth_to_show(depth: NDArray[np.float32], transmittance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth as REP 118 wants it: +inf (too far) where the ray more likely than not leaves the grid.

    Args:
        depth: Expected depth [h, w] in metres, NaN where there is none.
        transmittance: Part of each ray that leaves the grid [h, w].

    Returns:
        A new array [h, w]; NaN stays NaN.
    """
    too_far = (transmittance >= LARGEST_TRANSMITTANCE) & ~np.isnan(depth)
    return np.where(too_far, np.float32(np.inf), depth)
