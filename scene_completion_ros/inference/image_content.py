"""Whether an image shows anything. Of a covered lens, darkness or glare a network says something all the same."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

ROWS = 24
"""Square cells that an image is cut into from top to bottom; two by two of them are looked at together."""
LEAST_EDGE = 4
"""Pixels along the side of a cell, at least."""
FAINTEST = 2.0
"""Standard deviation of the grey values (0..255) from which a window shows something; sensors are less noisy."""
MOSTLY = 0.6
"""Share of windows from which an image counts as whole. Streets by day had 0.71 to 1, half covered 0.36 to 0.51."""
BLIND = 0.3
"""Share of windows below which nothing counts as seen. The same streets, 25 times darker, had 0.05 to 0.26."""


def shown_share(image_rgb: NDArray[np.uint8]) -> float:
    """Share of the windows of an image, uint8 [H, W, 3] RGB, that show something, 0..1."""
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edge = max(LEAST_EDGE, grey.shape[0] // ROWS)
    rows, columns = (max(2, side // edge) for side in grey.shape)
    # Less the mean of all, so that the difference of the squares keeps its digits in float32.
    grey = (grey - grey.mean())[: rows * edge, : columns * edge]
    mean, square = (
        cv2.blur(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), (2, 2))[1:, 1:]
        for values in (grey, grey * grey)
    )
    return float(np.mean(square - mean * mean >= FAINTEST**2))
