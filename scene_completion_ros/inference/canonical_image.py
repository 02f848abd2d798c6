"""What every encoder takes: an image of the canonical camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.inference.bundle import StudentBundle


def check_image(bundle: StudentBundle, image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless an image is uint8 [H, W, 3] of the canonical camera's size."""
    expected = (bundle.canonical.height, bundle.canonical.width, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise ImageError(
            f"is {image.dtype} {image.shape} where uint8 {expected} is needed",
            where="canonical image",
            cure="Resample the camera image into the canonical camera first.",
        )
