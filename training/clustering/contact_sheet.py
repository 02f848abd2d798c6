"""Contact sheets: where a cluster lies in images, so that somebody can give it a name."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = (120, 180)
"""Height and width of a tile, pixels."""
COLUMNS = 6
_HEADER = 34
_MARGIN = 4


def tile(image: NDArray[np.uint8], pixel: tuple[float, float], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What lies around a pixel of an RGB image [H, W, 3], with a ring around it: uint8 [*TILE, 3].

    The tile is moved to stay in the image; an image that is smaller has grey around it.
    """
    height, width = TILE
    top = int(np.clip(round(pixel[1]) - height // 2, 0, max(0, image.shape[0] - height)))
    left = int(np.clip(round(pixel[0]) - width // 2, 0, max(0, image.shape[1] - width)))
    cut = np.full((height, width, 3), 96, np.uint8)
    part = image[top : top + height, left : left + width]
    cut[: part.shape[0], : part.shape[1]] = part
    centre = (round(pixel[0]) - left, round(pixel[1]) - top)
    for shade, thickness in (((0, 0, 0), 4), (colour, 2)):
        cv2.circle(cut, centre, 9, shade, thickness, cv2.LINE_AA)
    return cut


def contact_sheet(tiles: Sequence[NDArray[np.uint8]], title: str, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A page of tiles under a title on the class's colour: uint8 [H, W, 3]."""
    height, width = TILE
    rows = max(1, -(-len(tiles) // COLUMNS))
    step_y, step_x = height + _MARGIN, width + _MARGIN
    page = np.full((_HEADER + rows * step_y + _MARGIN, COLUMNS * step_x + _MARGIN, 3), 255, np.uint8)
    page[: _HEADER - 2] = colour
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
    shade = (255, 255, 255) if dark else (0, 0, 0)
    cv2.putText(page, title, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, shade, 1, cv2.LINE_AA)
    for number, cut in enumerate(tiles):
        top = _HEADER + _MARGIN + number // COLUMNS * step_y
        left = _MARGIN + number % COLUMNS * step_x
        page[top : top + height, left : left + width] = cut
    return page
