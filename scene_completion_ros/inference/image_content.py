"""Whether an image shows anything. Of a covered lens, darkness or glare a network says something all the same."""

import cv2
import numpy as np
from numpy.typing import NDArray

ROWS = 24  # square cells that an image is cut into from top to bottom; two by two of them are looked at together
LEAST_EDGE = 4  # pixels along the side of a cell, at least
# Standard deviation of the grey values (0..255) from which a window shows something; sensors are less noisy.
FAINTEST = 2.0
# Share of windows from which an image counts as whole. Streets by day had 0.71 to 1, half covered 0.36 to 0.51.
MOSTLY = 0.6
BLIND = 0.3  # share of windows below which nothing counts as seen. The same streets, 25 times darker, had 0.05 to 0.26


def shown_share(image_rgb: NDArray[np.uint8], covered: NDArray[np.bool_] | None = None) -> float:
    """Share of the windows of an image, uint8 [H, W, 3] RGB, that show something, 0..1.

    `covered`: bool [H, W], the pixels that the camera covers: windows with others do not count. None for all.
    """
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= grey.mean()  # so that the difference of the squares keeps its digits in float32
    shows = _windows(grey * grey) - _windows(grey) ** 2 >= FAINTEST**2
    counted = np.ones_like(shows) if covered is None else _windows(covered.astype(np.float32)) > 0.999
    return float(shows[counted].mean()) if counted.any() else 1.0


def content_warning(shown: float) -> str:
    """What to say of an image by its `shown_share`; nothing where it shows enough."""
    if shown >= MOSTLY:
        return ""
    so = "no voxel counts as seen" if shown < BLIND else "the rest is a guess"
    return (
        f"only {100.0 * shown:.0f} % of the image shows anything, {so}. Is the lens covered, is it too dark or too "
        "bright, or are 16-bit values not scaled to 16 bits?"
    )


def _windows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over all windows of two by two cells."""
    edge = max(LEAST_EDGE, values.shape[0] // ROWS)
    rows, columns = (max(2, side // edge) for side in values.shape)
    cells = cv2.resize(values[: rows * edge, : columns * edge], (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.blur(cells, (2, 2))[1:, 1:], np.float32)
