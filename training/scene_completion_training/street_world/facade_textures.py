"""House fronts (four bays by four floors, the ground floor at the bottom), boards, and with them what is drawn."""

import numpy as np

from scene_completion_training.arrays import Floats, Random
from scene_completion_training.street_world.textures import Texture, drawn, periodic_noise, plain, speckled

FACADE_COUNT = 10
SIGN_COUNT = 4
BAY_M, FLOOR_M = 3.0, 3.0
BAYS, FLOORS, CELL = 4, 4, 128  # CELL: texels of a bay and of a floor
WALL_COLOURS = (
    (0.62, 0.36, 0.28), (0.90, 0.89, 0.86), (0.84, 0.79, 0.68), (0.70, 0.55, 0.47), (0.93, 0.92, 0.90),
    (0.76, 0.75, 0.73), (0.58, 0.50, 0.44), (0.86, 0.83, 0.74), (0.88, 0.88, 0.89), (0.80, 0.70, 0.52),
)  # fmt: skip


def facade(rng: Random, kind: int) -> Texture:
    """One house front; even kinds have shops on the ground floor, every third one is of brick."""
    height, width = FLOORS * CELL, BAYS * CELL
    image = plain(WALL_COLOURS[kind % len(WALL_COLOURS)], height, width)
    if kind % 3 == 0:
        _brick_pattern(rng, image)
    speckled(rng, image, fine=0.06, coarse=0.10)
    style = _WindowStyle(rng)
    for floor in range(FLOORS):
        top = height - (floor + 1) * CELL
        if floor:
            image[top + CELL - 5 : top + CELL, :, :3] *= 1.12  # string course with its shadow
            image[top + CELL - 2 : top + CELL, :, :3] *= 0.7
        for bay in range(BAYS):
            cell = image[top : top + CELL, bay * CELL : (bay + 1) * CELL]
            if floor == 0 and kind % 2 == 0:
                _shop(rng, cell)
            elif floor == 0 and bay == kind % BAYS:
                _door(rng, cell)
            else:
                _window(rng, cell, style)
    base = image[height - 20 :, :, :3]
    base *= np.array([0.62, 0.62, 0.64], np.float32)  # plinth
    streaks = np.clip(1.0 - 0.07 * np.abs(periodic_noise(rng, 1, width, 0.4, 3.0)), 0.7, 1.0)
    image[..., :3] *= streaks[..., None]
    return Texture(np.clip(image, 0.0, 1.0), (BAYS * BAY_M, FLOORS * FLOOR_M))


def _brick_pattern(rng: Random, image: Floats) -> None:
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    row = y // 4
    column = ((x + (row % 2) * 5) // 10) % (width // 10 + 1)
    image[..., :3] *= (1.0 + 0.13 * rng.standard_normal((height // 4, width // 10 + 2)))[row, column][..., None]
    image[(y % 4 == 0) | ((x + (row % 2) * 5) % 10 == 0), :3] *= 1.22


class _WindowStyle:
    """What the windows of one house have in common."""

    def __init__(self, rng: Random) -> None:
        self.width, self.height = int(rng.integers(44, 72)), int(rng.integers(62, 82))
        self.frame = np.array(rng.choice([0.93, 0.86, 0.30, 0.42]) * np.ones(3), np.float32)
        self.panes = int(rng.integers(1, 4))
        self.shutters = rng.uniform(0.15, 0.6, 3).astype(np.float32) if rng.random() < 0.35 else None
        self.surround = float(rng.choice([1.0, 1.15, 0.82]))


def _window(rng: Random, cell: Floats, style: _WindowStyle) -> None:
    x0, y0 = (CELL - style.width) // 2, (CELL - style.height) // 2 - 4
    x1, y1 = x0 + style.width, y0 + style.height
    cell[y0 - 7 : y1 + 7, x0 - 7 : x1 + 7, :3] *= style.surround
    if style.shutters is not None:
        for left in (x0 - 22, x1 + 2):
            slats = 0.8 + 0.2 * (np.arange(style.height) % 6 > 2)[:, None, None]
            cell[y0:y1, left : left + 20, :3] = style.shutters * slats.astype(np.float32)
    _glass(rng, cell[y0:y1, x0:x1])
    for edge in np.linspace(0, style.width - 4, style.panes + 1).astype(int):
        cell[y0:y1, x0 + edge : x0 + edge + 4] = (*style.frame, 0.0)
    for edge in (0, style.height // 3, style.height - 4):
        cell[y0 + edge : y0 + edge + 4, x0:x1] = (*style.frame, 0.0)
    cell[y0 : y0 + 3, x0:x1, :3] *= 0.45  # the lintel's shadow
    cell[y1 : y1 + 4, x0 - 5 : x1 + 5] = (0.80, 0.79, 0.77, 0.0)
    cell[y1 + 4 : y1 + 8, x0 - 5 : x1 + 5, :3] *= 0.6


def _glass(rng: Random, pane: Floats) -> None:
    height, width = pane.shape[:2]
    pane[:] = (0.10, 0.12, 0.15, 0.35)
    kind = rng.random()
    if kind < 0.35:  # curtains at both sides
        side = width // int(rng.integers(3, 5))
        folds = 0.65 + 0.12 * np.sin(np.arange(width) * 1.1)[None, :, None]
        curtain = np.broadcast_to(folds * rng.uniform(0.7, 1.2, 3), (height, width, 3))
        pane[:, :side, :3], pane[:, -side:, :3] = curtain[:, :side], curtain[:, -side:]
    elif kind < 0.55:  # blind, partly down
        drop = int(height * rng.uniform(0.25, 0.9))
        pane[:drop, :, :3] = (0.62 + 0.1 * (np.arange(drop) % 5 > 1))[:, None, None]
    elif kind < 0.7:  # something on the sill
        x = int(rng.integers(4, width - 14))
        pane[-int(rng.integers(10, 22)) :, x : x + 10, :3] = rng.uniform(0.2, 0.7, 3)


def _door(rng: Random, cell: Floats) -> None:
    colour = rng.uniform(0.12, 0.5, 3)
    cell[26:, 36:92, :3] *= 0.75
    cell[30:, 40:88] = (*colour, 0.05)
    for top, bottom in ((36, 62), (70, 96), (102, 122)):
        for left in (44, 67):
            cell[top:bottom, left : left + 17, :3] = colour * 0.7
    cell[70:76, 82:85, :3] = 0.8
    cell[14:26, 40:88] = (0.16, 0.18, 0.20, 0.4)


def _shop(rng: Random, cell: Floats) -> None:
    cell[4:30, :, :3] = rng.uniform(0.1, 0.75, 3)
    x = 10
    while x < CELL - 16:  # the name board: letter-like blocks
        letter = int(rng.integers(4, 9))
        cell[10:24, x : x + letter, :3] = 0.92
        cell[14:18, x + 2 : x + letter - 1, :3] *= rng.uniform(0.2, 1.0)
        x += letter + 4
    cell[34:112, 6:122] = (0.11, 0.12, 0.13, 0.45)
    for _ in range(9):  # goods behind the glass
        x, y = int(rng.integers(8, 106)), int(rng.integers(60, 100))
        cell[y:112, x : x + int(rng.integers(5, 14)), :3] = rng.uniform(0.1, 0.7, 3)
    for x in (4, 62, 120):
        cell[32:118, x : x + 4] = (0.25, 0.25, 0.26, 0.1)


def board(rng: Random) -> Texture:
    """A direction board or a poster: blocks of lettering on a plain or coloured ground."""
    ground = [(0.05, 0.15, 0.5), (0.92, 0.9, 0.86), (0.85, 0.65, 0.05)][int(rng.integers(3))]
    image = plain(ground, 64, 128)
    ink = 0.95 if sum(ground) < 1.5 else 0.08
    for row in range(8, 54, 14):
        x = int(rng.integers(6, 20))
        while x < 118 - int(rng.integers(0, 30)):
            letter = int(rng.integers(3, 8))
            image[row : row + 8, x : x + letter, :3] = ink
            x += letter + 3
    return Texture(image, (1.0, 1.0))


def made_textures(rng: Random) -> dict[str, Texture]:
    """Everything with windows, wheels or letters."""
    textures = {f"facade_{kind}": facade(rng, kind) for kind in range(FACADE_COUNT)}
    textures |= {f"sign_{kind}": drawn(f"sign_{kind}", rng) for kind in range(SIGN_COUNT)}
    textures |= {f"board_{kind}": board(rng) for kind in range(3)}
    return textures | {name: drawn(name, rng) for name in ("car_side", "car_glass", "car_screen", "wheel")}
