"""Short names of kinds of arrays, whose shape and unit are given where they are used, and of random generators."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Halves: TypeAlias = NDArray[np.float16]
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Reals: TypeAlias = NDArray[np.floating]  # of any precision
Ints: TypeAlias = NDArray[np.int64]
Integers: TypeAlias = NDArray[np.integer]  # of any size
Bytes: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Random: TypeAlias = np.random.Generator
