"""Arrays that start at a cache line, for what the kernels read most.

Sixteen channels are one load where vectors have 512 bits. NumPy's arrays start at any multiple of 16 bytes, so that
most such loads touch two lines: with tables and features like that, the voxel query of the shipped student takes half
as long again.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CACHE_LINE = 64


def aligned_empty(*shape: int) -> NDArray[np.float32]:
    """An uninitialised float32 array of a shape that starts at a multiple of 64 bytes."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(np.float32).reshape(shape)
