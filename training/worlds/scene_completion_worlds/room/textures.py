"""Textures of rooms: floors, walls, wood, cloth, and pictures, drawn from the seed."""

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from scene_completion_training.arrays import Floats, Random
from scene_completion_worlds.street.textures import Texture, TextureAtlas, periodic_noise, plain, speckled

FLOORS = ("floor_0", "floor_1", "floor_2")
WALLS = ("wall_0", "wall_1", "wall_2")
WOODS = ("wood_0", "wood_1", "wood_2")
CLOTHS = ("cloth_0", "cloth_1", "cloth_2", "cloth_3")
PICTURES = tuple(f"picture_{number}" for number in range(6))
TILE_M = dict.fromkeys((*FLOORS, *WALLS), (2.0, 2.0)) | {"tiles": (0.8, 0.8), "books": (1.0, 0.35)}


def make_atlas(rng: Random) -> TextureAtlas:
    """All textures of a floor plan, each with colours of its own."""
    textures: dict[str, Floats] = {"plain": plain((1.0, 1.0, 1.0)), "ceiling": _walled(rng, ceiling=True)}
    textures |= {name: _floor(rng) for name in FLOORS} | {name: _walled(rng) for name in WALLS}
    textures |= {name: _wood(rng, _wood_colour(rng)) for name in WOODS} | {name: _cloth(rng) for name in CLOTHS}
    textures |= {name: _picture(rng) for name in PICTURES}
    textures |= {"tiles": _tiles(rng, 4), "books": _books(rng), "stone": _stone(rng), "view": _view(rng)}
    textures |= {"paint": speckled(rng, plain((0.9, 0.9, 0.9), 64, 64, rng.uniform(0.0, 0.25)), fine=0.02, coarse=0.02)}
    textures |= {"metal": speckled(rng, plain((0.7, 0.71, 0.72), 64, 64, 0.5), fine=0.03, coarse=0.05)}
    textures |= {"screen": _screen(rng), "leaves": speckled(rng, plain((0.16, 0.32, 0.1)), fine=0.3, coarse=0.3)}
    textures |= {"pages": _pages(rng)}
    return TextureAtlas({name: Texture(image, TILE_M.get(name, (1.0, 1.0))) for name, image in textures.items()})


def _muted(rng: Random, low: float, high: float, saturation: float) -> tuple[float, float, float]:
    """A colour between two shades, more or less coloured."""
    shade = rng.uniform(low, high)
    tint = rng.normal(0.0, saturation, 3)
    red, green, blue = np.clip(shade * (1.0 + tint - tint.mean()), 0.02, 0.98)
    return float(red), float(green), float(blue)


def _wood_colour(rng: Random) -> tuple[float, float, float]:
    shade = rng.uniform(0.25, 0.85)
    warm = rng.uniform(0.7, 0.95)
    return (shade, shade * warm, shade * warm * rng.uniform(0.65, 0.9))


def _wood(rng: Random, colour: tuple[float, float, float], size: int = 256) -> Floats:
    image = plain(colour, size, size, rng.uniform(0.0, 0.3))
    grain = periodic_noise(rng, size, size, 1.0)
    grain = gaussian_filter(grain, (0.6, 14.0), mode="wrap")
    image[..., :3] *= 1.0 + rng.uniform(0.05, 0.16) * (grain / max(float(grain.std()), 1e-6))[..., None]
    return speckled(rng, image, fine=0.02, coarse=0.04)


def _floor(rng: Random) -> Floats:
    kind = rng.integers(4)
    if kind == 0:  # boards
        image = _wood(rng, _wood_colour(rng), 512)
        boards = int(rng.integers(10, 20))
        number = np.arange(512) * boards // 512
        image[..., :3] *= (1.0 + 0.09 * rng.standard_normal(boards))[number][:, None, None].astype(np.float32)
        image[np.diff(number, prepend=-1) > 0, :, :3] *= 0.6
        return np.clip(image, 0.0, 1.0)
    if kind == 1:
        return _tiles(rng, int(rng.integers(4, 9)))
    image = plain(_muted(rng, 0.2, 0.7, 0.12), 512, 512)
    if kind == 2:  # a carpet of stripes
        stripes = periodic_noise(rng, 1, 512, 0.5, 12.0)
        image[..., :3] *= 1.0 + rng.uniform(0.0, 0.35) * stripes[..., None]
    return speckled(rng, np.clip(image, 0.0, 1.0), fine=0.12, coarse=0.05)


def _tiles(rng: Random, count: int) -> Floats:
    image = plain(_muted(rng, 0.45, 0.92, 0.08), 512, 512, rng.uniform(0.1, 0.45))
    edge = 512 // count
    shade = 1.0 + rng.uniform(0.0, 0.08) * rng.standard_normal((count, count))
    image[..., :3] *= np.kron(shade, np.ones((edge + 1, edge + 1)))[:512, :512, None].astype(np.float32)
    image[np.arange(512) % edge < 5, :, :3] *= 0.75
    image[:, np.arange(512) % edge < 5, :3] *= 0.75
    return speckled(rng, np.clip(image, 0.0, 1.0), fine=0.02, coarse=0.04)


def _walled(rng: Random, *, ceiling: bool = False) -> Floats:
    image = plain(_muted(rng, 0.75 if ceiling else 0.5, 0.97, 0.02 if ceiling else 0.09), 256, 256)
    if not ceiling and rng.random() < 0.2:  # wallpaper
        stripes = np.sign(np.sin(2.0 * np.pi * np.arange(256) * int(rng.integers(8, 24)) / 256.0))
        image[..., :3] *= 1.0 + 0.06 * stripes[None, :, None].astype(np.float32)
    return speckled(rng, np.clip(image, 0.0, 1.0), fine=0.015, coarse=0.02)


def _cloth(rng: Random) -> Floats:
    image = plain(_muted(rng, 0.15, 0.9, 0.25), 128, 128)
    if rng.random() < 0.3:
        pattern = np.sign(np.sin(2.0 * np.pi * np.arange(128) * int(rng.integers(2, 12)) / 128.0)).astype(np.float32)
        image[..., :3] *= 1.0 + 0.2 * (pattern[None, :, None] * (pattern[:, None, None] if rng.random() < 0.5 else 1.0))
    return speckled(rng, np.clip(image, 0.0, 1.0), fine=0.08, coarse=0.08)


def _stone(rng: Random) -> Floats:
    image = plain(_muted(rng, 0.12, 0.85, 0.05), 256, 256, rng.uniform(0.2, 0.6))
    return speckled(rng, image, fine=rng.uniform(0.03, 0.25), coarse=0.1)


def _books(rng: Random) -> Floats:
    image = plain((0.1, 0.08, 0.06), 64, 256)
    left = 0
    while left < 250:
        width, height = int(rng.integers(5, 16)), int(rng.integers(36, 62))
        image[64 - height :, left : left + width, :3] = rng.uniform(0.05, 0.9, 3)
        image[64 - height + 8 : 64 - height + 14, left + 1 : left + width - 1, :3] *= 1.5
        left += width + (1 if rng.random() < 0.8 else int(rng.integers(5, 30)))
    return speckled(rng, np.clip(image, 0.0, 1.0), fine=0.04, coarse=0.04)


def _picture(rng: Random) -> Floats:
    image = plain(_muted(rng, 0.2, 0.95, 0.3), 128, 128)
    for _ in range(int(rng.integers(2, 12))):
        centre, colour = rng.integers(0, 128, 2).tolist(), (*rng.uniform(0.0, 1.0, 3).tolist(), 0.1)
        if rng.random() < 0.5:
            cv2.circle(image, centre, int(rng.integers(4, 50)), colour, -1)
        else:
            cv2.rectangle(image, centre, (np.array(centre) + rng.integers(8, 90, 2)).tolist(), colour, -1)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 3.0))), np.float32)
    image[:5, :, :3] = image[-5:, :, :3] = image[:, :5, :3] = image[:, -5:, :3] = rng.uniform(0.05, 0.9)
    return speckled(rng, image, fine=0.05, coarse=0.1)


def _pages(rng: Random) -> Floats:
    image = plain((0.9, 0.9, 0.88), 64, 64)
    if rng.random() < 0.6:
        image[..., :3] = rng.uniform(0.1, 0.9, 3)
    for row in range(8, 58, 6):
        image[row : row + 2, 6 : int(rng.integers(20, 60)), :3] *= 0.4
    return image


def _screen(rng: Random) -> Floats:
    image = plain((0.03, 0.03, 0.035), 64, 64, 0.5)
    if rng.random() < 0.5:
        image[4:-4, 3:-3, :3] = rng.uniform(0.1, 0.9, 3)
        for _ in range(6):
            top, left = rng.integers(4, 40, 2)
            colour = rng.uniform(0, 1, 3)
            image[top : top + int(rng.integers(3, 20)), left : left + int(rng.integers(3, 20)), :3] = colour
    return image


def _view(rng: Random) -> Floats:
    """What a window shows: bright sky above something green or grey."""
    image = plain((0.85, 0.92, 1.0), 128, 128)
    below = np.arange(128)[:, None] > 70 + (6.0 * periodic_noise(rng, 1, 128, 1.2)[0]).astype(int)[None]
    image[below] = (*rng.uniform(0.2, 0.6, 3), 0.0)
    return speckled(rng, image, fine=0.1, coarse=0.15)
