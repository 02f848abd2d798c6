"""A small kernel, compiled and cached as those of the inference are."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

from scene_completion_ros.jit import kernel


@cache
def trial_kernel() -> Any:
    """The compiled function: float32 [N] -> twice the values."""

    @kernel()
    def doubled(values):  # type: ignore[no-untyped-def] # numba finds the types
        result = np.empty_like(values)
        for i in numba.prange(len(values)):
            result[i] = np.float32(2.0) * values[i]
        return result

    return doubled
