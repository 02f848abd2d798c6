"""Animated pictures as a reader other than OpenCV, which encodes them, sees them."""

import io
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray


class Decoded(NamedTuple):
    frames: list[NDArray[np.uint8]]  # RGB [H, W, 3]
    durations_ms: list[int]
    loop: int | None


def decoded(data: bytes) -> Decoded:
    """What another reader makes of a WebP file."""
    pillow: Any = pytest.importorskip("PIL.Image")
    frames, durations = [], []
    with pillow.open(io.BytesIO(data)) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
            durations.append(picture.info.get("duration", 0))
        return Decoded(frames, durations, picture.info.get("loop"))
