"""All textures of a town in one array with their mip pyramids, from which the shading kernels take texels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def srgb_to_linear(value: NDArray[np.floating]) -> NDArray[np.float32]:
    """Display values in [0, 1] to linear light."""
    value = np.clip(np.asarray(value, np.float32), 0.0, 1.0)
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(value: NDArray[np.floating]) -> NDArray[np.float32]:
    """Linear light to display values in [0, 1]."""
    value = np.clip(np.asarray(value, np.float32), 0.0, 1.0)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Texture:
    """One tile that repeats in both directions.

    `image`: display colours and gloss, float32 [H, W, 4] in [0, 1]; H and W are powers of two, row 0 is the top;
    `tile_m`: metres of the tile (horizontally, vertically) where it is drawn at its natural size.
    """

    image: Floats
    tile_m: tuple[float, float]


class TextureAtlas:
    """Textures by name."""

    def __init__(self, textures: dict[str, Texture]) -> None:
        self.names = tuple(textures)
        self.tile_m = {name: texture.tile_m for name, texture in textures.items()}
        texels: list[Floats] = []
        levels = [_mip_levels(texture.image) for texture in textures.values()]
        depth = max(len(pyramid) for pyramid in levels)
        self._offset = np.zeros((len(levels), depth), np.int64)
        self._size = np.ones((len(levels), depth, 2), np.int32)  # height, width
        filled = 0
        for row, pyramid in enumerate(levels):
            for column in range(depth):
                level = pyramid[min(column, len(pyramid) - 1)]
                if column < len(pyramid):
                    texels.append(level.reshape(-1, 4))
                    start, filled = filled, filled + len(texels[-1])
                self._offset[row, column] = start
                self._size[row, column] = level.shape[:2]
        # Display values of eight bits are as exact as images are, and the gather moves a quarter of the memory.
        self._texels = np.empty((filled, 4), np.uint8)
        shown = np.rint(255.0 * linear_to_srgb(np.arange(65536) / 65535.0)).astype(np.uint8)
        # Level by level, and gloss as if it were a colour: rows of four go through the loops of NumPy as one.
        for end, level in zip(np.cumsum([len(level) for level in texels]), texels, strict=True):
            kept = self._texels[end - len(level) : end]
            np.take(shown, (level * 65535.0 + 0.5).astype(np.uint16), out=kept)
            kept[:, 3] = np.rint(255.0 * level[:, 3])
        self._linear = srgb_to_linear(np.arange(256, dtype=np.float32) / 255.0)

    @property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """What `texel_at` needs: offsets and sizes of the levels, texels, linear value of a display value."""
        return self._offset, self._size, self._texels, self._linear

    def index(self, name: str) -> int:
        """Number of a texture."""
        return self.names.index(name)

    def texels_per_tile(self) -> Floats:
        """Height and width of every texture's finest level, [T, 2]."""
        return self._size[:, 0].astype(np.float32)


def _mip_levels(image: Floats) -> list[Floats]:
    level = image.astype(np.float32).copy()
    level[..., :3] = srgb_to_linear(level[..., :3])
    levels = [level]
    while min(level.shape[:2]) > 1:
        level = 0.25 * (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2])
        levels.append(level)
    return levels
