"""Random shifts of the token grid against the image, so that tokens land on arbitrary pixels (SceneDINO).

A shift is (dy, dx), multiples of an eighth of a cell in [−cell/2, cell/2): a token is rendered as 8 × 8 rays, which
then stay on pixels of the views they are compared with. Token (i, j) of a shifted image covers the rows
[i·cell + dy, (i+1)·cell + dy) and the columns [j·cell + dx, (j+1)·cell + dx) of the original.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def random_shift(generator: np.random.Generator, cell: int) -> tuple[int, int]:
    """Draws (dy, dx), evenly, in steps of an eighth of a cell (of a pixel where cells are smaller than 8)."""
    step = max(1, cell // 8)
    dy, dx = step * generator.integers(-(cell // step // 2), cell // step - cell // step // 2, 2)
    return int(dy), int(dx)


def shifted(images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Images [..., H, W] whose pixel (r, c) is the original's (r + dy, c + dx), or the nearest on its edge."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + shift[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shift[1]).clamp(0, width - 1)
    return images[..., rows[:, None], columns]


def cell_bounds(
    size: tuple[int, int], cell: int, shift: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which pixels of the original image tokens cover.

    Token (i, j) covers rows[i, 0] ≤ r < rows[i, 1] and columns[j, 0] ≤ c < columns[j, 1]. What it has seen beyond the
    edge, where the edge is repeated, is not counted: tokens at the edge cover less than a whole cell, and none where
    both bounds are equal.

    Args:
        size: Height and width of the image.
        cell: Edge of the square of pixels that a token covers.
        shift: (dy, dx) of the grid, pixels.

    Returns:
        rows [⌈H / cell⌉, 2] and columns [⌈W / cell⌉, 2].
    """
    rows, columns = (_bounds(length, cell, offset) for length, offset in zip(size, shift, strict=True))
    return rows, columns


def _bounds(length: int, cell: int, offset: int) -> NDArray[np.int64]:
    first = np.arange(-(-length // cell), dtype=np.int64) * cell + offset
    return np.stack([first, first + cell], axis=-1).clip(0, length)
