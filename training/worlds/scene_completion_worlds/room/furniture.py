"""What stands in rooms. Things face +x, stand on z = 0, and are centred on the origin; lengths in metres."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from scene_completion_training.arrays import Random
from scene_completion_worlds.room.textures import CLOTHS, PICTURES, WOODS
from scene_completion_worlds.street import parts as shapes
from scene_completion_worlds.street.parts import Colour, Part, box, frustum, grey, post
from scene_completion_worlds.street.road_users import person

# Classes by the ids of `ROOM_CLASSES`, from 0 on: free space in voxels, and nothing in images.
RoomClass = IntEnum(
    "RoomClass",
    "FREE WALL FLOOR CABINET BED CHAIR SOFA TABLE DOOR WINDOW BOOKSHELF PICTURE COUNTER DESK CURTAIN REFRIGERATOR "
    "SHOWER_CURTAIN TOILET SINK BATHTUB OTHERFURNITURE CEILING PERSON OTHER_OBJECT",
    start=0,
)


@dataclass(frozen=True)
class Thing:
    """One piece of furniture."""

    parts: list[Part]
    depth: float  # along x
    width: float  # along y
    tops: list[tuple[shapes.Rectangle, float]] = field(default_factory=list)  # where clutter may stand, and how high


Maker = Callable[[Random], Thing]


def _pick(rng: Random, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _tint(rng: Random, spread: float = 0.2) -> Colour:
    return shapes.triple(np.clip(rng.uniform(0.35, 1.0) * (1.0 + spread * rng.normal(size=3)), 0.04, 1.0))


def _finish(rng: Random) -> tuple[str, Colour]:
    """Texture and tint of a board: wood, or paint of any colour."""
    return (_pick(rng, WOODS), (1.0, 1.0, 1.0)) if rng.random() < 0.6 else ("paint", _tint(rng, 0.35))


def _top(depth: float, width: float, height: float) -> list[tuple[shapes.Rectangle, float]]:
    return [((-depth / 2, depth / 2, -width / 2, width / 2), height)]


def _legs(depth: float, width: float, tall: float, thick: float, texture: str, label: int, tint: Colour) -> list[Part]:
    x, y = depth / 2 - thick, width / 2 - thick
    size, corners = (thick, thick, tall), [(a, b, tall / 2) for a in (-x, x) for b in (-y, y)]
    return [box(size, corner, texture, label, tint=tint) for corner in corners]


def table(rng: Random) -> Thing:
    """A table: a board on four legs, on one foot, or low in front of a sofa."""
    label, low = RoomClass.TABLE, rng.random() < 0.25
    height = rng.uniform(0.35, 0.5) if low else rng.uniform(0.7, 0.78)
    sizes = ((0.45, 0.7), (0.7, 1.2)) if low else ((0.7, 1.0), (0.8, 2.0))
    depth, width = (rng.uniform(*size) for size in sizes)
    board = rng.uniform(0.02, 0.06)
    texture, tint = _finish(rng)
    if rng.random() < 0.15:
        width = depth
        parts = [post(depth / 2, board, (0.0, 0.0, height - board), label, texture, tint=tint, sides=20)]
    else:
        parts = [box((depth, width, board), (0.0, 0.0, height - board / 2), texture, label, tint=tint)]
    if depth == width and rng.random() < 0.7:
        parts += [post(0.05, height - board, (0.0, 0.0, 0.0), label, tint=tint)]
        parts += [box((0.5 * depth, 0.5 * depth, 0.03), (0.0, 0.0, 0.015), "metal", label, tint=tint)]
    else:
        thick = rng.uniform(0.03, 0.09)
        parts += _legs(0.96 * depth, 0.96 * width, height - board, thick, texture, label, tint)
        if rng.random() < 0.4:  # the frame below the board
            for x in (-0.43 * depth, 0.43 * depth):
                parts += [box((0.03, 0.9 * width, 0.09), (x, 0.0, height - board - 0.045), texture, label, tint=tint)]
    return Thing(parts, depth, width, _top(depth, width, height))


def _screen(size: shapes.Place, centre: shapes.Place, shade: float) -> Part:
    return box(size, centre, ("screen", "plain", "plain"), RoomClass.OTHER_OBJECT, tile="stretched", tint=grey(shade))


def desk(rng: Random) -> Thing:
    """A desk with a drawer unit, a screen, a keyboard and perhaps a computer."""
    label = RoomClass.DESK
    depth, width, height = rng.uniform(0.6, 0.8), rng.uniform(1.1, 1.8), rng.uniform(0.7, 0.76)
    texture, tint = _finish(rng)
    parts = [box((depth, width, 0.03), (0.0, 0.0, height - 0.015), texture, label, tint=tint)]
    if rng.random() < 0.5:
        side = rng.choice((-1.0, 1.0)) * (width / 2 - 0.22)
        parts += [box((0.9 * depth, 0.4, height - 0.1), (0.0, side, height / 2), texture, label, tint=tint)]
    parts += _legs(0.96 * depth, 0.98 * width, height - 0.03, 0.05, rng.choice(("metal", texture)), label, tint)
    other = RoomClass.OTHER_OBJECT
    for y in (-0.3, 0.3) if rng.random() < 0.3 else (0.0,):
        wide = rng.uniform(0.45, 0.65)
        parts += [_screen((0.03, wide, 0.32), (-0.2 * depth, y, height + 0.28), 0.5)]
        parts += [box((0.16, 0.2, 0.12), (-0.24 * depth, y, height + 0.06), "plain", other, tint=(0.05, 0.05, 0.05))]
    parts += [box((0.14, 0.42, 0.02), (0.18 * depth, 0.0, height + 0.01), "plain", other, tint=(0.1, 0.1, 0.1))]
    if rng.random() < 0.4:
        parts += [box((0.42, 0.19, 0.42), (0.0, width / 2 - 0.12, 0.21), "plain", other, tint=(0.06, 0.06, 0.07))]
    tops = [((-depth / 2, depth / 2, -width / 2, -0.35), height), ((0.0, depth / 2, 0.35, width / 2), height)]
    return Thing(parts, depth, width, tops)


def chair(rng: Random) -> Thing:
    """A chair with legs, an office chair on a column, or a stool."""
    label = RoomClass.CHAIR
    seat, wide, deep = rng.uniform(0.42, 0.5), rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.5)
    kind = rng.random()
    soft = rng.random() < 0.5
    texture, tint = (_pick(rng, CLOTHS), _tint(rng)) if soft else _finish(rng)
    thick = rng.uniform(0.03, 0.09)
    parts = [box((deep, wide, thick), (0.0, 0.0, seat - thick / 2), texture, label, tint=tint)]
    if kind < 0.3:  # an office chair
        parts += [post(0.03, seat - 0.12, (0.0, 0.0, 0.08), label, tint=grey(0.2))]
        for angle in np.arange(5) * 2.0 * np.pi / 5.0:
            arm = box((0.3, 0.045, 0.04), (0.15, 0.0, 0.07), "plain", label, tint=(0.06, 0.06, 0.06))
            parts += [arm.moved((0.0, 0.0, 0.0), float(angle))]
        if rng.random() < 0.6:
            for size, z in (((0.25, 0.05, 0.03), seat + 0.2), ((0.04, 0.04, 0.22), seat + 0.09)):
                for y in (-wide / 2 - 0.03, wide / 2 + 0.03):
                    parts += [box(size, (0.0, y, z), "plain", label, tint=grey(0.08))]
    else:
        parts += _legs(deep, wide, seat - thick, rng.uniform(0.025, 0.05), rng.choice(("metal", texture)), label, tint)
    if kind > 0.9:
        return Thing(parts, deep, wide)
    top, lean = seat + rng.uniform(0.3, 0.6), rng.uniform(0.0, 0.1)
    x = -deep / 2 + 0.02
    if not soft and rng.random() < 0.5:  # slats between two posts
        for y in (-wide / 2 + 0.025, wide / 2 - 0.025):
            foot = (x - 0.02, x + 0.02, y - 0.02, y + 0.02)
            head = (x - 0.02 - lean, x + 0.02 - lean, y - 0.02, y + 0.02)
            parts += [frustum(foot, head, (seat, top), texture, label, tint=tint)]
        for number in range(int(rng.integers(2, 5))):
            z = top - 0.05 - 0.11 * number
            shift = lean * (z - seat) / (top - seat)
            parts += [box((0.02, wide, 0.06), (x - shift, 0.0, z), texture, label, tint=tint)]
    else:
        low = seat if rng.random() < 0.5 else seat + 0.12
        back = (x - 0.03, x + 0.03, -wide / 2, wide / 2)
        head = (x - 0.03 - lean, x + 0.03 - lean, -wide / 2, wide / 2)
        parts += [frustum(back, head, (low, top), texture, label, tint=tint)]
        if low > seat:
            parts += [box((0.03, 0.06, 0.16), (x, 0.0, seat + 0.06), "plain", label, tint=(0.1, 0.1, 0.1))]
    return Thing(parts, deep + 0.1, wide + 0.06)


def sofa(rng: Random) -> Thing:
    """A sofa or an armchair with cushions."""
    label = RoomClass.SOFA
    width, depth = rng.choice((rng.uniform(0.8, 1.0), rng.uniform(1.5, 2.4)), p=(0.3, 0.7)), rng.uniform(0.8, 1.0)
    texture, tint = _pick(rng, CLOTHS), _tint(rng)
    seat, top, arm = rng.uniform(0.38, 0.46), rng.uniform(0.7, 0.95), rng.uniform(0.1, 0.24)
    gap = rng.uniform(0.0, 0.12)
    parts = [box((depth, width, seat - gap), (0.0, 0.0, (seat + gap) / 2), texture, label, tint=tint)]
    low, high = ((-depth / 2, -depth / 2 + thick, -width / 2, width / 2) for thick in (0.24, 0.16))
    parts += [frustum(low, high, (seat, top), texture, label, tint=tint)]
    for y in (-(width - arm) / 2, (width - arm) / 2):
        parts += [box((depth, arm, 0.22), (0.0, y, seat + 0.1), texture, label, tint=tint)]
    for _ in range(int(rng.integers(0, 4))):
        y = rng.uniform(-width / 2 + arm + 0.2, max(width / 2 - arm - 0.2, -width / 2 + arm + 0.21))
        cushion = box((0.12, 0.4, 0.4), (0.0, 0.0, 0.0), _pick(rng, CLOTHS), label, tint=_tint(rng, 0.4))
        parts += [cushion.tilted(pitch=-0.35).moved((-depth / 2 + 0.33, y, seat + 0.19))]
    return Thing(parts, depth, width)


def bed(rng: Random) -> Thing:
    """A bed whose head is at the wall, with a blanket and pillows."""
    label = RoomClass.BED
    width, depth, height = rng.choice((0.9, 1.4, 1.8)), rng.uniform(2.0, 2.15), rng.uniform(0.4, 0.6)
    wood, tint = _finish(rng)
    parts = [box((depth, width, 0.22), (0.0, 0.0, height - 0.3), wood, label, tint=tint)]
    parts += _legs(depth, width, height - 0.4, 0.06, wood, label, tint)
    size, centre = (depth - 0.1, width - 0.06, 0.2), (0.02, 0.0, height - 0.1)
    parts += [box(size, centre, _pick(rng, CLOTHS), label, tint=grey(0.9))]
    size, centre = (0.68 * depth, width + 0.04, 0.14), (0.14 * depth, 0.0, height - 0.02)
    parts += [box(size, centre, _pick(rng, CLOTHS), label, tint=_tint(rng, 0.3))]
    if rng.random() < 0.8:
        tall = rng.uniform(0.75, 1.2)
        parts += [box((0.05, width, tall), (-depth / 2, 0.0, tall / 2), wood, label, tint=tint)]
    for y in (-width / 4, width / 4) if width > 1.2 else (0.0,):
        centre = (-depth / 2 + 0.32, y, height + 0.05)
        parts += [shapes.ellipsoid((0.2, 0.32, 0.09), centre, _pick(rng, CLOTHS), label, tint=grey(0.95))]
    return Thing(parts, depth, width)


def bookshelf(rng: Random) -> Thing:
    """Shelves with books, boxes and gaps."""
    label = RoomClass.BOOKSHELF
    depth, width, height = rng.uniform(0.25, 0.4), rng.uniform(0.6, 1.6), rng.uniform(0.8, 2.2)
    texture, tint = _finish(rng)
    sides = (-width / 2, width / 2)
    parts = [box((depth, 0.03, height), (0.0, y, height / 2), texture, label, tint=tint) for y in sides]
    if rng.random() < 0.7:
        parts += [box((0.015, width, height), (-depth / 2, 0.0, height / 2), texture, label, tint=tint)]
    count = max(2, round(height / rng.uniform(0.3, 0.42)))
    for number in range(count + 1):
        z = 0.05 + (height - 0.07) * number / count
        parts += [box((depth, width, 0.025), (0.0, 0.0, z), texture, label, tint=tint)]
        if number < count and rng.random() < 0.85:
            tall, long = 0.75 * (height / count), width * rng.uniform(0.3, 0.95)
            y = rng.uniform(-1.0, 1.0) * (width - long) / 2
            size, faces = (0.7 * depth, long, tall), ("books", "books", "pages")
            parts += [box(size, (-0.05, y, z + tall / 2), faces, label, tile=(1.0, tall))]
    return Thing(parts, depth, width, _top(depth, width, height))


def _fronts(rng: Random, depth: float, width: float, z: tuple[float, float], texture: str, tint: Colour) -> list[Part]:
    """A cabinet with doors or drawers on its front: handles, and joints a little darker."""
    (low, high), label = z, RoomClass.CABINET
    parts = [box((depth, width, high - low), (0.0, 0.0, (low + high) / 2), texture, label, tint=tint)]
    doors = max(1, round(width / rng.uniform(0.4, 0.65)))
    dark = shapes.triple(0.55 * np.asarray(tint))
    for number in range(doors):
        y = -width / 2 + (number + 0.5) * width / doors
        size, centre = (0.006, width / doors - 0.012, high - low - 0.03), (depth / 2 + 0.002, y, (low + high) / 2)
        parts += [box(size, centre, texture, label, tint=tint)]
        centre = (depth / 2 + 0.001, y + width / doors / 2 - 0.004, (low + high) / 2)
        parts += [box((0.004, 0.008, high - low), centre, "plain", label, tint=dark)]
        parts += [box((0.03, 0.12, 0.012), (depth / 2 + 0.02, y, high - rng.uniform(0.06, 0.1)), "metal", label)]
    return parts


def cabinet(rng: Random) -> Thing:
    """A cabinet, a chest of drawers or a wardrobe."""
    tall = rng.random() < 0.4
    depth, width = rng.uniform(0.35, 0.62), rng.uniform(0.6, 2.0 if tall else 1.4)
    height = rng.uniform(1.7, 2.3) if tall else rng.uniform(0.6, 1.2)
    texture, tint = _finish(rng)
    parts = _fronts(rng, depth, width, (rng.uniform(0.0, 0.1), height), texture, tint)
    return Thing(parts, depth + 0.06, width, _top(depth, width, height))


def kitchen(rng: Random, width: float) -> Thing:
    """A row of base cabinets under a counter with a sink, perhaps cabinets on the wall above it."""
    depth, height = 0.6, rng.uniform(0.86, 0.94)
    texture, tint = _finish(rng)
    parts = _fronts(rng, depth, width, (rng.uniform(0.08, 0.15), height - 0.04), texture, tint)
    stone, shade = rng.choice(("stone", "wood_0", "stone")), _tint(rng, 0.05)
    counter = RoomClass.COUNTER
    sink = rng.uniform(-0.3, 0.3) * width
    bowl = (-0.2, 0.18, sink - 0.25, sink + 0.25)
    for x0, x1, y0, y1 in (
        (-depth / 2, bowl[0], -width / 2, width / 2),
        (bowl[1], depth / 2 + 0.03, -width / 2, width / 2),
        (bowl[0], bowl[1], -width / 2, bowl[2]),
        (bowl[0], bowl[1], bowl[3], width / 2),
    ):
        centre = ((x0 + x1) / 2, (y0 + y1) / 2, height - 0.02)
        parts += [box((x1 - x0, y1 - y0, 0.04), centre, stone, counter, tint=shade)]
    basin = ((bowl[0] + bowl[1]) / 2, sink, height - 0.16)
    parts += [box((0.38, 0.5, 0.01), basin, "metal", RoomClass.SINK)]
    parts += [box((0.01, 0.5, 0.16), (x, sink, height - 0.08), "metal", RoomClass.SINK) for x in bowl[:2]]
    parts += [box((0.38, 0.01, 0.16), (basin[0], y, height - 0.08), "metal", RoomClass.SINK) for y in bowl[2:]]
    parts += [post(0.015, 0.28, (-0.25, sink, height), RoomClass.SINK)]
    parts += [box((0.18, 0.02, 0.02), (-0.17, sink, height + 0.28), "metal", RoomClass.SINK)]
    if rng.random() < 0.7:
        above = _fronts(rng, 0.33, width, (height + 0.5, height + 1.2), texture, tint)
        parts += shapes.moved_all(above, (-0.13, 0.0, 0.0))
    if rng.random() < 0.6:
        parts += [box((0.01, width, 0.5), (-depth / 2 + 0.005, 0.0, height + 0.25), "tiles", RoomClass.WALL)]
    sides = ((-width / 2, bowl[2]), (bowl[3], width / 2))
    tops = [((-depth / 2 + 0.05, depth / 2, *between), height) for between in sides]
    return Thing(parts, depth + 0.05, width, tops)


def refrigerator(rng: Random) -> Thing:
    """A fridge with two doors."""
    depth, width, height = rng.uniform(0.58, 0.7), rng.uniform(0.55, 0.9), rng.uniform(1.2, 1.95)
    texture, tint = rng.choice(("paint", "metal")), _tint(rng, 0.02) if rng.random() < 0.4 else (0.95, 0.95, 0.95)
    label, split = RoomClass.REFRIGERATOR, height * rng.uniform(0.3, 0.7)
    parts = [box((depth, width, height), (0.0, 0.0, height / 2), texture, label, tint=tint)]
    for low, high in ((0.06, split - 0.005), (split + 0.005, height - 0.01)):
        tall, middle = high - low, (low + high) / 2
        parts += [box((0.04, width - 0.01, tall), (depth / 2 + 0.02, 0.0, middle), texture, label, tint=tint)]
        parts += [box((0.03, 0.025, 0.5 * tall), (depth / 2 + 0.06, 0.4 * width, middle), "metal", label)]
    return Thing(parts, depth + 0.1, width, _top(depth, width, height))


def toilet(rng: Random) -> Thing:
    """A toilet with its cistern."""
    label, white = RoomClass.TOILET, (0.93, 0.93, 0.93)
    parts = [frustum((-0.15, 0.15, -0.12, 0.12), (-0.2, 0.28, -0.18, 0.18), (0.0, 0.36), "paint", label, tint=white)]
    parts += [post(0.21, 0.05, (0.08, 0.0, 0.37), label, "paint", tint=white, sides=16)]
    parts += [box((0.17, 0.38, 0.38), (-0.26, 0.0, 0.58), "paint", label, tint=white)]
    if rng.random() < 0.5:
        parts += [box((0.03, 0.36, 0.4), (-0.14, 0.0, 0.6), "paint", label, tint=white)]
    return Thing(parts, 0.7, 0.42)


def sink(rng: Random) -> Thing:
    """A washbasin, on a foot or on a cabinet, with a mirror or a picture above it."""
    label, white, width = RoomClass.SINK, (0.93, 0.93, 0.93), rng.uniform(0.45, 0.8)
    height = rng.uniform(0.8, 0.88)
    low, high = (-0.2, 0.1, -0.3 * width, 0.3 * width), (-0.24, 0.24, -width / 2, width / 2)
    parts = [frustum(low, high, (height - 0.16, height), "paint", label, tint=white)]
    if rng.random() < 0.5:
        texture, tint = _finish(rng)[0], _tint(rng)
        parts += _fronts(rng, 0.4, 0.9 * width, (0.1, height - 0.16), texture, tint)
    else:
        parts += [post(0.08, height - 0.16, (-0.08, 0.0, 0.0), label, "paint", tint=white)]
    parts += [post(0.015, 0.14, (-0.18, 0.0, height), label)]
    parts += [_screen((0.02, width, 0.7), (-0.25, 0.0, 1.5), 0.8)]
    return Thing(parts, 0.5, width)


def bathtub(rng: Random) -> Thing:
    """A tub along the wall, perhaps with a shower curtain."""
    label, white, width, height = RoomClass.BATHTUB, (0.93, 0.93, 0.93), rng.uniform(1.5, 1.75), rng.uniform(0.5, 0.62)
    depth, rim = rng.uniform(0.7, 0.8), 0.07
    parts = [box((depth, width, 0.12), (0.0, 0.0, 0.06), "paint", label, tint=white)]
    for x in (-(depth - rim) / 2, (depth - rim) / 2):
        parts += [box((rim, width, height), (x, 0.0, height / 2), "paint", label, tint=white)]
    for y in (-(width - rim) / 2, (width - rim) / 2):
        parts += [box((depth, rim, height), (0.0, y, height / 2), "paint", label, tint=white)]
    if rng.random() < 0.6:
        wide = width * rng.uniform(0.3, 0.8)
        parts += hanging(rng, wide, (height - 0.1, 2.0), RoomClass.SHOWER_CURTAIN, depth / 2 - 0.04)
    return Thing(parts, depth, width)


def hanging(rng: Random, width: float, z: tuple[float, float], label: int, x: float) -> list[Part]:
    """A curtain in folds, at a distance x."""
    texture, tint = _pick(rng, CLOTHS), _tint(rng, 0.1)
    folds = max(2, round(width / 0.12))
    parts = []
    for number in range(folds):
        y = -width / 2 + (number + 0.5) * width / folds
        size, centre = (0.03, width / folds + 0.02, z[1] - z[0]), (x + 0.03 * (-1) ** number, y, (z[0] + z[1]) / 2)
        parts += [box(size, centre, texture, label, tint=tint)]
    return parts


def clutter(rng: Random, most: float = 0.4) -> Thing:
    """Something small: a box, a bottle, a cup, a pile of paper, a plant, a bag, a lamp."""
    label = RoomClass.OTHER_OBJECT
    kind = int(rng.integers(7))
    size = rng.uniform(0.06, most)
    tint = _tint(rng, 0.5)
    if kind == 0:
        x, y, z = size * rng.uniform(0.4, 1.0, 3)
        parts = [box((x, y, z), (0.0, 0.0, z / 2), rng.choice(("paint", *WOODS, "pages")), label, tint=tint)]
    elif kind in (1, 2):
        tall, thin = rng.uniform(0.08, 0.32), rng.uniform(0.03, 0.06)
        parts = [post(thin, tall, (0.0, 0.0, 0.0), label, "paint", tint=tint)]
        size = 2.0 * thin
    elif kind == 3:
        size = 0.3
        pile = (0.21, 0.3, 0.03 * rng.uniform(0.1, 1.5))
        parts = [box(pile, (0.0, 0.0, 0.01), "pages", label, tint=tint, tile="stretched")]
    elif kind == 4:
        tall = rng.uniform(0.15, 1.0) if most > 0.3 else rng.uniform(0.1, 0.2)
        pot = 0.35 * tall
        low, high = ((-share * pot, share * pot, -share * pot, share * pot) for share in (0.3, 0.45))
        parts = [frustum(low, high, (0.0, pot), "paint", label, tint=tint)]
        for _ in range(int(rng.integers(3, 8))):
            x, y = 0.25 * tall * rng.normal(size=2)
            radii, centre = (0.18 * tall, 0.15 * tall, 0.2 * tall), (x, y, rng.uniform(0.5, 1.0) * tall)
            parts += [shapes.ellipsoid(radii, centre, "leaves", label)]
        size = 0.5 * tall
    elif kind == 5:
        radii = (0.4 * size, 0.5 * size, 0.45 * size)
        parts = [shapes.ellipsoid(radii, (0.0, 0.0, 0.42 * size), _pick(rng, CLOTHS), label, tint=tint)]
    else:
        tall = rng.uniform(0.3, 0.5) if most < 0.5 else rng.uniform(1.2, 1.7)
        parts = [post(0.012, tall, (0.0, 0.0, 0.0), label), post(0.1, 0.02, (0.0, 0.0, 0.0), label)]
        low, high = (-0.13, 0.13, -0.13, 0.13), (-0.08, 0.08, -0.08, 0.08)
        parts += [frustum(low, high, (tall - 0.05, tall + 0.15), "paint", label, tint=(0.9, 0.88, 0.8))]
        size = 0.26
    return Thing(parts, size, size)


def bin_or_box(rng: Random) -> Thing:
    """Something that stands on the floor: a bin, a carton, a plant, a bag."""
    if rng.random() < 0.5:
        return clutter(rng, 0.6)
    label, size, tall = RoomClass.OTHER_OBJECT, rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.6)
    if rng.random() < 0.4:
        body = post(0.4 * size, tall, (0.0, 0.0, 0.0), label, "plain", tint=_tint(rng))
    else:
        edges = (size, size * rng.uniform(0.6, 1.4), tall)
        body = box(edges, (0.0, 0.0, tall / 2), _pick(rng, WOODS), label, tint=_tint(rng))
    return Thing([body], size, 1.4 * size)


def otherfurniture(rng: Random) -> Thing:
    """A radiator, a trolley or a whiteboard's stand: ScanNet's rest."""
    label, tint = RoomClass.OTHERFURNITURE, _tint(rng, 0.1)
    if rng.random() < 0.5:  # a radiator
        width = rng.uniform(0.6, 1.4)
        ribs, white = np.arange(-width / 2, width / 2, 0.075), grey(0.92)
        parts = [box((0.04, 0.05, 0.55), (0.0, y, 0.42), "paint", label, tint=white) for y in ribs]
        parts += [box((0.03, width, 0.04), (0.0, 0.0, z), "paint", label, tint=white) for z in (0.18, 0.66)]
        return Thing(parts, 0.1, width)
    depth, width = rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.8)
    levels = sorted(rng.uniform(0.1, 0.9, int(rng.integers(2, 4))))
    parts = [box((depth, width, 0.02), (0.0, 0.0, z), "metal", label, tint=tint) for z in levels]
    parts += _legs(depth, width, levels[-1], 0.025, "metal", label, tint)
    return Thing(parts, depth, width, _top(depth, width, levels[-1]))


def standing_person(rng: Random) -> Thing:
    """A person who stands there."""
    parts = [replace(part, label=RoomClass.PERSON, texture_names=(_pick(rng, CLOTHS),)) for part in person(rng)]
    return Thing([part.moved((0.0, 0.0, 0.0), float(rng.uniform(0.0, 6.3))) for part in parts], 0.6, 0.6)


def picture(rng: Random) -> Thing:
    """A picture, a poster or a board on the wall; its centre is at z = 0, the wall at x = 0."""
    width, height = rng.uniform(0.3, 1.3), rng.uniform(0.25, 0.9)
    faces = (_pick(rng, PICTURES), "plain", "plain")
    front = box((0.02, width, height), (0.01, 0.0, 0.0), faces, RoomClass.PICTURE, tile="stretched")
    return Thing([front], 0.02, width)


ROOM_KINDS: dict[str, dict[str, tuple[Maker, ...]]] = {
    "living": {"wall": (sofa, sofa, bookshelf, cabinet, cabinet, bookshelf, otherfurniture), "middle": (table,)},
    "dining": {"wall": (cabinet, cabinet, bookshelf, otherfurniture, sofa), "middle": (table, table)},
    "bedroom": {"wall": (bed, cabinet, cabinet, desk, bookshelf, chair, otherfurniture), "middle": ()},
    "office": {"wall": (desk, desk, desk, bookshelf, bookshelf, cabinet, otherfurniture), "middle": (table,)},
    "kitchen": {"wall": (refrigerator, cabinet, cabinet, otherfurniture), "middle": (table,)},
    "bathroom": {"wall": (bathtub, toilet, sink, cabinet, otherfurniture), "middle": ()},
    "corridor": {"wall": (cabinet, bookshelf, chair), "middle": ()},
}  # what stands along the walls and in the middle of each kind of room
