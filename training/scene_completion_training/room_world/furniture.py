"""What stands in rooms. Things face +x, stand on z = 0, and are centred on the origin; lengths in metres."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from scene_completion_training.room_world.classes import RoomClass
from scene_completion_training.room_world.textures import CLOTHS, PICTURES, WOODS
from scene_completion_training.street_world.parts import (
    Colour,
    Part,
    box,
    cylinder,
    ellipsoid,
    frustum,
    triple,
    upright,
)
from scene_completion_training.street_world.road_users import person

Rectangle = tuple[float, float, float, float]  # x from, x to, y from, y to


@dataclass(frozen=True)
class Thing:
    """One piece of furniture."""

    parts: list[Part]
    depth: float  # along x
    width: float  # along y
    tops: list[tuple[Rectangle, float]] = field(default_factory=list)  # where clutter may stand, and how high


Maker = Callable[[np.random.Generator], Thing]


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _tint(rng: np.random.Generator, spread: float = 0.2) -> Colour:
    return triple(np.clip(rng.uniform(0.35, 1.0) * (1.0 + spread * rng.normal(size=3)), 0.04, 1.0))


def _finish(rng: np.random.Generator) -> tuple[str, Colour]:
    """Texture and tint of a board: wood, or paint of any colour."""
    if rng.random() < 0.6:
        return _pick(rng, WOODS), (1.0, 1.0, 1.0)
    return "paint", _tint(rng, 0.35)


def _legs(
    depth: float, width: float, height: float, thick: float, texture: str, label: int, tint: Colour
) -> list[Part]:
    x, y = depth / 2 - thick, width / 2 - thick
    return [
        box((thick, thick, height), (a, b, height / 2), texture, label, tint=tint) for a in (-x, x) for b in (-y, y)
    ]


def table(rng: np.random.Generator, label: int = RoomClass.TABLE) -> Thing:
    """A table: a board on four legs, on one foot, or low in front of a sofa."""
    low = label == RoomClass.TABLE and rng.random() < 0.25
    height = rng.uniform(0.35, 0.5) if low else rng.uniform(0.7, 0.78)
    depth, width = (
        (rng.uniform(0.45, 0.7), rng.uniform(0.7, 1.2)) if low else (rng.uniform(0.7, 1.0), rng.uniform(0.8, 2.0))
    )
    board = rng.uniform(0.02, 0.06)
    texture, tint = _finish(rng)
    if rng.random() < 0.15:
        width = depth
        parts = [
            upright(
                cylinder(depth / 2, board, (texture, texture), label, tint=tint, sides=20),
                (0.0, 0.0, height - board),
                board,
            )
        ]
    else:
        parts = [box((depth, width, board), (0.0, 0.0, height - board / 2), texture, label, tint=tint)]
    if depth == width and rng.random() < 0.7:
        parts += [
            upright(
                cylinder(0.05, height - board, ("metal", "metal"), label, tint=tint), (0.0, 0.0, 0.0), height - board
            )
        ]
        parts += [box((0.5 * depth, 0.5 * depth, 0.03), (0.0, 0.0, 0.015), "metal", label, tint=tint)]
    else:
        thick = rng.uniform(0.03, 0.09)
        parts += _legs(0.96 * depth, 0.96 * width, height - board, thick, texture, label, tint)
        if rng.random() < 0.4:  # the frame below the board
            parts += [
                box((0.03, 0.9 * width, 0.09), (x, 0.0, height - board - 0.045), texture, label, tint=tint)
                for x in (-0.43 * depth, 0.43 * depth)
            ]
    return Thing(parts, depth, width, [((-depth / 2, depth / 2, -width / 2, width / 2), height)])


def desk(rng: np.random.Generator) -> Thing:
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
        parts += [
            box(
                (0.03, wide, 0.32),
                (-0.2 * depth, y, height + 0.28),
                ("screen", "plain", "plain"),
                other,
                tile="stretched",
                tint=(0.5, 0.5, 0.5),
            )
        ]
        parts += [box((0.16, 0.2, 0.12), (-0.24 * depth, y, height + 0.06), "plain", other, tint=(0.05, 0.05, 0.05))]
    parts += [box((0.14, 0.42, 0.02), (0.18 * depth, 0.0, height + 0.01), "plain", other, tint=(0.1, 0.1, 0.1))]
    if rng.random() < 0.4:
        parts += [box((0.42, 0.19, 0.42), (0.0, width / 2 - 0.12, 0.21), "plain", other, tint=(0.06, 0.06, 0.07))]
    return Thing(
        parts,
        depth,
        width,
        [((-depth / 2, depth / 2, -width / 2, -0.35), height), ((0.0, depth / 2, 0.35, width / 2), height)],
    )


def chair(rng: np.random.Generator) -> Thing:
    """A chair with legs, an office chair on a column, or a stool."""
    label = RoomClass.CHAIR
    seat, wide, deep = rng.uniform(0.42, 0.5), rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.5)
    kind = rng.random()
    soft = rng.random() < 0.5
    texture, tint = (_pick(rng, CLOTHS), _tint(rng)) if soft else _finish(rng)
    thick = rng.uniform(0.03, 0.09)
    parts = [box((deep, wide, thick), (0.0, 0.0, seat - thick / 2), texture, label, tint=tint)]
    if kind < 0.3:  # an office chair
        parts += [
            upright(
                cylinder(0.03, seat - 0.12, ("metal", "metal"), label, tint=(0.2, 0.2, 0.2)),
                (0.0, 0.0, 0.08),
                seat - 0.12,
            )
        ]
        for angle in np.arange(5) * 2.0 * np.pi / 5.0:
            arm = box((0.3, 0.045, 0.04), (0.15, 0.0, 0.07), "plain", label, tint=(0.06, 0.06, 0.06))
            parts += [arm.moved((0.0, 0.0, 0.0), float(angle))]
        if rng.random() < 0.6:
            parts += [
                box((0.25, 0.05, 0.03), (0.0, y, seat + 0.2), "plain", label, tint=(0.08, 0.08, 0.08))
                for y in (-wide / 2 - 0.03, wide / 2 + 0.03)
            ]
            parts += [
                box((0.04, 0.04, 0.22), (0.0, y, seat + 0.09), "plain", label, tint=(0.08, 0.08, 0.08))
                for y in (-wide / 2 - 0.03, wide / 2 + 0.03)
            ]
    else:
        parts += _legs(deep, wide, seat - thick, rng.uniform(0.025, 0.05), rng.choice(("metal", texture)), label, tint)
    if kind > 0.9:
        return Thing(parts, deep, wide)
    top, lean = seat + rng.uniform(0.3, 0.6), rng.uniform(0.0, 0.1)
    x = -deep / 2 + 0.02
    if not soft and rng.random() < 0.5:  # slats between two posts
        for y in (-wide / 2 + 0.025, wide / 2 - 0.025):
            parts += [
                frustum(
                    (x - 0.02, x + 0.02, y - 0.02, y + 0.02),
                    (x - 0.02 - lean, x + 0.02 - lean, y - 0.02, y + 0.02),
                    (seat, top),
                    texture,
                    label,
                    tint=tint,
                )
            ]
        for number in range(int(rng.integers(2, 5))):
            z = top - 0.05 - 0.11 * number
            shift = lean * (z - seat) / (top - seat)
            parts += [box((0.02, wide, 0.06), (x - shift, 0.0, z), texture, label, tint=tint)]
    else:
        low = seat if rng.random() < 0.5 else seat + 0.12
        back = (x - 0.03, x + 0.03, -wide / 2, wide / 2)
        parts += [
            frustum(
                back, (x - 0.03 - lean, x + 0.03 - lean, -wide / 2, wide / 2), (low, top), texture, label, tint=tint
            )
        ]
        if low > seat:
            parts += [box((0.03, 0.06, 0.16), (x, 0.0, seat + 0.06), "plain", label, tint=(0.1, 0.1, 0.1))]
    return Thing(parts, deep + 0.1, wide + 0.06)


def sofa(rng: np.random.Generator) -> Thing:
    """A sofa or an armchair with cushions."""
    label = RoomClass.SOFA
    width, depth = rng.choice((rng.uniform(0.8, 1.0), rng.uniform(1.5, 2.4)), p=(0.3, 0.7)), rng.uniform(0.8, 1.0)
    texture, tint = _pick(rng, CLOTHS), _tint(rng)
    seat, top, arm = rng.uniform(0.38, 0.46), rng.uniform(0.7, 0.95), rng.uniform(0.1, 0.24)
    gap = rng.uniform(0.0, 0.12)
    parts = [box((depth, width, seat - gap), (0.0, 0.0, (seat + gap) / 2), texture, label, tint=tint)]
    parts += [
        frustum(
            (-depth / 2, -depth / 2 + 0.24, -width / 2, width / 2),
            (-depth / 2, -depth / 2 + 0.16, -width / 2, width / 2),
            (seat, top),
            texture,
            label,
            tint=tint,
        )
    ]
    parts += [
        box((depth, arm, 0.22), (0.0, y, seat + 0.1), texture, label, tint=tint)
        for y in (-(width - arm) / 2, (width - arm) / 2)
    ]
    for _ in range(int(rng.integers(0, 4))):
        y = rng.uniform(-width / 2 + arm + 0.2, max(width / 2 - arm - 0.2, -width / 2 + arm + 0.21))
        cushion = box((0.12, 0.4, 0.4), (0.0, 0.0, 0.0), _pick(rng, CLOTHS), label, tint=_tint(rng, 0.4)).tilted(
            pitch=-0.35
        )
        parts += [cushion.moved((-depth / 2 + 0.33, y, seat + 0.19))]
    return Thing(parts, depth, width)


def bed(rng: np.random.Generator) -> Thing:
    """A bed whose head is at the wall, with a blanket and pillows."""
    label = RoomClass.BED
    width, depth, height = rng.choice((0.9, 1.4, 1.8)), rng.uniform(2.0, 2.15), rng.uniform(0.4, 0.6)
    wood, tint = _finish(rng)
    parts = [box((depth, width, 0.22), (0.0, 0.0, height - 0.3), wood, label, tint=tint)]
    parts += _legs(depth, width, height - 0.4, 0.06, wood, label, tint)
    parts += [
        box(
            (depth - 0.1, width - 0.06, 0.2), (0.02, 0.0, height - 0.1), _pick(rng, CLOTHS), label, tint=(0.9, 0.9, 0.9)
        )
    ]
    parts += [
        box(
            (0.68 * depth, width + 0.04, 0.14),
            (0.14 * depth, 0.0, height - 0.02),
            _pick(rng, CLOTHS),
            label,
            tint=_tint(rng, 0.3),
        )
    ]
    if rng.random() < 0.8:
        tall = rng.uniform(0.75, 1.2)
        parts += [box((0.05, width, tall), (-depth / 2, 0.0, tall / 2), wood, label, tint=tint)]
    for y in (-width / 4, width / 4) if width > 1.2 else (0.0,):
        parts += [
            ellipsoid(
                (0.2, 0.32, 0.09),
                (-depth / 2 + 0.32, y, height + 0.05),
                _pick(rng, CLOTHS),
                label,
                tint=(0.95, 0.95, 0.95),
            )
        ]
    return Thing(parts, depth, width)


def bookshelf(rng: np.random.Generator) -> Thing:
    """Shelves with books, boxes and gaps."""
    label = RoomClass.BOOKSHELF
    depth, width, height = rng.uniform(0.25, 0.4), rng.uniform(0.6, 1.6), rng.uniform(0.8, 2.2)
    texture, tint = _finish(rng)
    parts = [
        box((depth, 0.03, height), (0.0, y, height / 2), texture, label, tint=tint) for y in (-width / 2, width / 2)
    ]
    if rng.random() < 0.7:
        parts += [box((0.015, width, height), (-depth / 2, 0.0, height / 2), texture, label, tint=tint)]
    count = max(2, round(height / rng.uniform(0.3, 0.42)))
    for number in range(count + 1):
        z = 0.05 + (height - 0.07) * number / count
        parts += [box((depth, width, 0.025), (0.0, 0.0, z), texture, label, tint=tint)]
        if number < count and rng.random() < 0.85:
            tall, long = 0.75 * (height / count), width * rng.uniform(0.3, 0.95)
            y = rng.uniform(-1.0, 1.0) * (width - long) / 2
            parts += [
                box(
                    (0.7 * depth, long, tall),
                    (-0.05, y, z + tall / 2),
                    ("books", "books", "pages"),
                    label,
                    tile=(1.0, tall),
                )
            ]
    return Thing(parts, depth, width, [((-depth / 2, depth / 2, -width / 2, width / 2), height)])


def _fronts(
    rng: np.random.Generator, depth: float, width: float, z: tuple[float, float], texture: str, label: int, tint: Colour
) -> list[Part]:
    """A body with doors or drawers on its front: handles, and joints a little darker."""
    low, high = z
    parts = [box((depth, width, high - low), (0.0, 0.0, (low + high) / 2), texture, label, tint=tint)]
    doors = max(1, round(width / rng.uniform(0.4, 0.65)))
    dark = triple(0.55 * np.asarray(tint))
    for number in range(doors):
        y = -width / 2 + (number + 0.5) * width / doors
        parts += [
            box(
                (0.006, width / doors - 0.012, high - low - 0.03),
                (depth / 2 + 0.002, y, (low + high) / 2),
                texture,
                label,
                tint=tint,
            )
        ]
        parts += [
            box(
                (0.004, 0.008, high - low),
                (depth / 2 + 0.001, y + width / doors / 2 - 0.004, (low + high) / 2),
                "plain",
                label,
                tint=dark,
            )
        ]
        parts += [box((0.03, 0.12, 0.012), (depth / 2 + 0.02, y, high - rng.uniform(0.06, 0.1)), "metal", label)]
    return parts


def cabinet(rng: np.random.Generator) -> Thing:
    """A cabinet, a chest of drawers or a wardrobe."""
    tall = rng.random() < 0.4
    depth, width = rng.uniform(0.35, 0.62), rng.uniform(0.6, 2.0 if tall else 1.4)
    height = rng.uniform(1.7, 2.3) if tall else rng.uniform(0.6, 1.2)
    texture, tint = _finish(rng)
    parts = _fronts(rng, depth, width, (rng.uniform(0.0, 0.1), height), texture, RoomClass.CABINET, tint)
    return Thing(parts, depth + 0.06, width, [((-depth / 2, depth / 2, -width / 2, width / 2), height)])


def kitchen(rng: np.random.Generator, width: float) -> Thing:
    """A row of base cabinets under a counter with a sink, perhaps cabinets on the wall above it."""
    depth, height = 0.6, rng.uniform(0.86, 0.94)
    texture, tint = _finish(rng)
    parts = _fronts(rng, depth, width, (rng.uniform(0.08, 0.15), height - 0.04), texture, RoomClass.CABINET, tint)
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
        parts += [
            box((x1 - x0, y1 - y0, 0.04), ((x0 + x1) / 2, (y0 + y1) / 2, height - 0.02), stone, counter, tint=shade)
        ]
    basin = ((bowl[0] + bowl[1]) / 2, sink, height - 0.16)
    parts += [box((0.38, 0.5, 0.01), basin, "metal", RoomClass.SINK)]
    for x, y, size in (
        (bowl[0], sink, (0.01, 0.5, 0.16)),
        (bowl[1], sink, (0.01, 0.5, 0.16)),
        (basin[0], bowl[2], (0.38, 0.01, 0.16)),
        (basin[0], bowl[3], (0.38, 0.01, 0.16)),
    ):
        parts += [box(size, (x, y, height - 0.08), "metal", RoomClass.SINK)]
    parts += [upright(cylinder(0.015, 0.28, ("metal", "metal"), RoomClass.SINK), (-0.25, sink, height), 0.28)]
    parts += [box((0.18, 0.02, 0.02), (-0.17, sink, height + 0.28), "metal", RoomClass.SINK)]
    if rng.random() < 0.7:
        parts += [
            part.moved((-0.13, 0.0, 0.0))
            for part in _fronts(rng, 0.33, width, (height + 0.5, height + 1.2), texture, RoomClass.CABINET, tint)
        ]
    if rng.random() < 0.6:
        parts += [box((0.01, width, 0.5), (-depth / 2 + 0.005, 0.0, height + 0.25), "tiles", RoomClass.WALL)]
    tops = [
        ((-depth / 2 + 0.05, depth / 2, -width / 2, bowl[2]), height),
        ((-depth / 2 + 0.05, depth / 2, bowl[3], width / 2), height),
    ]
    return Thing(parts, depth + 0.05, width, tops)


def refrigerator(rng: np.random.Generator) -> Thing:
    """A fridge with two doors."""
    depth, width, height = rng.uniform(0.58, 0.7), rng.uniform(0.55, 0.9), rng.uniform(1.2, 1.95)
    texture, tint = rng.choice(("paint", "metal")), _tint(rng, 0.02) if rng.random() < 0.4 else (0.95, 0.95, 0.95)
    label, split = RoomClass.REFRIGERATOR, height * rng.uniform(0.3, 0.7)
    parts = [box((depth, width, height), (0.0, 0.0, height / 2), texture, label, tint=tint)]
    for low, high in ((0.06, split - 0.005), (split + 0.005, height - 0.01)):
        parts += [
            box((0.04, width - 0.01, high - low), (depth / 2 + 0.02, 0.0, (low + high) / 2), texture, label, tint=tint)
        ]
        parts += [
            box((0.03, 0.025, 0.5 * (high - low)), (depth / 2 + 0.06, 0.4 * width, (low + high) / 2), "metal", label)
        ]
    return Thing(parts, depth + 0.1, width, [((-depth / 2, depth / 2, -width / 2, width / 2), height)])


def toilet(rng: np.random.Generator) -> Thing:
    """A toilet with its cistern."""
    label, white = RoomClass.TOILET, (0.93, 0.93, 0.93)
    parts = [frustum((-0.15, 0.15, -0.12, 0.12), (-0.2, 0.28, -0.18, 0.18), (0.0, 0.36), "paint", label, tint=white)]
    parts += [upright(cylinder(0.21, 0.05, ("paint", "paint"), label, tint=white, sides=16), (0.08, 0.0, 0.37), 0.05)]
    parts += [box((0.17, 0.38, 0.38), (-0.26, 0.0, 0.58), "paint", label, tint=white)]
    if rng.random() < 0.5:
        parts += [box((0.03, 0.36, 0.4), (-0.14, 0.0, 0.6), "paint", label, tint=white)]
    return Thing(parts, 0.7, 0.42)


def sink(rng: np.random.Generator) -> Thing:
    """A washbasin, on a foot or on a cabinet, with a mirror or a picture above it."""
    label, white, width = RoomClass.SINK, (0.93, 0.93, 0.93), rng.uniform(0.45, 0.8)
    height = rng.uniform(0.8, 0.88)
    parts = [
        frustum(
            (-0.2, 0.1, -0.3 * width, 0.3 * width),
            (-0.24, 0.24, -width / 2, width / 2),
            (height - 0.16, height),
            "paint",
            label,
            tint=white,
        )
    ]
    if rng.random() < 0.5:
        parts += _fronts(
            rng, 0.4, 0.9 * width, (0.1, height - 0.16), *((_finish(rng)[0]), RoomClass.CABINET), tint=_tint(rng)
        )
    else:
        parts += [
            upright(
                cylinder(0.08, height - 0.16, ("paint", "paint"), label, tint=white), (-0.08, 0.0, 0.0), height - 0.16
            )
        ]
    parts += [upright(cylinder(0.015, 0.14, ("metal", "metal"), label), (-0.18, 0.0, height), 0.14)]
    parts += [
        box(
            (0.02, width, 0.7),
            (-0.25, 0.0, 1.5),
            ("screen", "plain", "plain"),
            RoomClass.OTHER_OBJECT,
            tile="stretched",
            tint=(0.8, 0.8, 0.8),
        )
    ]
    return Thing(parts, 0.5, width)


def bathtub(rng: np.random.Generator) -> Thing:
    """A tub along the wall, perhaps with a shower curtain."""
    label, white, width, height = RoomClass.BATHTUB, (0.93, 0.93, 0.93), rng.uniform(1.5, 1.75), rng.uniform(0.5, 0.62)
    depth, rim = rng.uniform(0.7, 0.8), 0.07
    parts = [box((depth, width, 0.12), (0.0, 0.0, 0.06), "paint", label, tint=white)]
    for x in (-(depth - rim) / 2, (depth - rim) / 2):
        parts += [box((rim, width, height), (x, 0.0, height / 2), "paint", label, tint=white)]
    for y in (-(width - rim) / 2, (width - rim) / 2):
        parts += [box((depth, rim, height), (0.0, y, height / 2), "paint", label, tint=white)]
    if rng.random() < 0.6:
        parts += hanging(
            rng, width * rng.uniform(0.3, 0.8), (height - 0.1, 2.0), RoomClass.SHOWER_CURTAIN, depth / 2 - 0.04
        )
    return Thing(parts, depth, width)


def hanging(rng: np.random.Generator, width: float, z: tuple[float, float], label: int, x: float) -> list[Part]:
    """A curtain in folds, at a distance x."""
    texture, tint = _pick(rng, CLOTHS), _tint(rng, 0.1)
    folds = max(2, round(width / 0.12))
    parts = []
    for number in range(folds):
        y = -width / 2 + (number + 0.5) * width / folds
        shift = 0.03 * (-1) ** number
        parts += [
            box((0.03, width / folds + 0.02, z[1] - z[0]), (x + shift, y, (z[0] + z[1]) / 2), texture, label, tint=tint)
        ]
    return parts


def clutter(rng: np.random.Generator, most: float = 0.4) -> Thing:
    """Something small: a box, a bottle, a cup, a pile of paper, a plant, a bag, a lamp."""
    label = RoomClass.OTHER_OBJECT
    kind = int(rng.integers(7))
    size = rng.uniform(0.06, most)
    tint = _tint(rng, 0.5)
    if kind == 0:
        edges = size * rng.uniform(0.4, 1.0, 3)
        parts = [
            box(
                (edges[0], edges[1], edges[2]),
                (0.0, 0.0, edges[2] / 2),
                rng.choice(("paint", *WOODS, "pages")),
                label,
                tint=tint,
            )
        ]
    elif kind in (1, 2):
        tall, thin = rng.uniform(0.08, 0.32), rng.uniform(0.03, 0.06)
        parts = [upright(cylinder(thin, tall, ("paint", "paint"), label, tint=tint), (0.0, 0.0, 0.0), tall)]
        size = 2.0 * thin
    elif kind == 3:
        size = 0.3
        parts = [
            box(
                (0.21, 0.3, 0.03 * rng.uniform(0.1, 1.5)), (0.0, 0.0, 0.01), "pages", label, tint=tint, tile="stretched"
            )
        ]
    elif kind == 4:
        tall = rng.uniform(0.15, 1.0) if most > 0.3 else rng.uniform(0.1, 0.2)
        pot = 0.35 * tall
        parts = [
            frustum(
                (-0.3 * pot, 0.3 * pot, -0.3 * pot, 0.3 * pot),
                (-0.45 * pot, 0.45 * pot, -0.45 * pot, 0.45 * pot),
                (0.0, pot),
                "paint",
                label,
                tint=tint,
            )
        ]
        for _ in range(int(rng.integers(3, 8))):
            x, y = 0.25 * tall * rng.normal(size=2)
            parts += [
                ellipsoid((0.18 * tall, 0.15 * tall, 0.2 * tall), (x, y, rng.uniform(0.5, 1.0) * tall), "leaves", label)
            ]
        size = 0.5 * tall
    elif kind == 5:
        parts = [
            ellipsoid(
                (0.4 * size, 0.5 * size, 0.45 * size), (0.0, 0.0, 0.42 * size), _pick(rng, CLOTHS), label, tint=tint
            )
        ]
    else:
        tall = rng.uniform(0.3, 0.5) if most < 0.5 else rng.uniform(1.2, 1.7)
        parts = [upright(cylinder(0.012, tall, ("metal", "metal"), label), (0.0, 0.0, 0.0), tall)]
        parts += [upright(cylinder(0.1, 0.02, ("metal", "metal"), label), (0.0, 0.0, 0.0), 0.02)]
        parts += [
            frustum(
                (-0.13, 0.13, -0.13, 0.13),
                (-0.08, 0.08, -0.08, 0.08),
                (tall - 0.05, tall + 0.15),
                "paint",
                label,
                tint=(0.9, 0.88, 0.8),
            )
        ]
        size = 0.26
    return Thing(parts, size, size)


def bin_or_box(rng: np.random.Generator) -> Thing:
    """Something that stands on the floor: a bin, a carton, a plant, a bag."""
    if rng.random() < 0.5:
        return clutter(rng, 0.6)
    size, tall = rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.6)
    if rng.random() < 0.4:
        body = upright(
            cylinder(0.4 * size, tall, ("plain", "plain"), RoomClass.OTHER_OBJECT, tint=_tint(rng)),
            (0.0, 0.0, 0.0),
            tall,
        )
    else:
        body = box(
            (size, size * rng.uniform(0.6, 1.4), tall),
            (0.0, 0.0, tall / 2),
            _pick(rng, WOODS),
            RoomClass.OTHER_OBJECT,
            tint=_tint(rng),
        )
    return Thing([body], size, 1.4 * size)


def otherfurniture(rng: np.random.Generator) -> Thing:
    """A radiator, a trolley or a whiteboard's stand: ScanNet's rest."""
    label, tint = RoomClass.OTHERFURNITURE, _tint(rng, 0.1)
    if rng.random() < 0.5:  # a radiator
        width = rng.uniform(0.6, 1.4)
        parts = [
            box((0.04, 0.05, 0.55), (0.0, y, 0.42), "paint", label, tint=(0.92, 0.92, 0.92))
            for y in np.arange(-width / 2, width / 2, 0.075)
        ]
        parts += [
            box((0.03, width, 0.04), (0.0, 0.0, z), "paint", label, tint=(0.92, 0.92, 0.92)) for z in (0.18, 0.66)
        ]
        return Thing(parts, 0.1, width)
    depth, width = rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.8)
    levels = sorted(rng.uniform(0.1, 0.9, int(rng.integers(2, 4))))
    parts = [box((depth, width, 0.02), (0.0, 0.0, z), "metal", label, tint=tint) for z in levels]
    parts += _legs(depth, width, levels[-1], 0.025, "metal", label, tint)
    return Thing(parts, depth, width, [((-depth / 2, depth / 2, -width / 2, width / 2), levels[-1])])


def standing_person(rng: np.random.Generator) -> Thing:
    """Somebody who stands there."""
    parts = [replace(part, label=RoomClass.PERSON, texture_names=(_pick(rng, CLOTHS),)) for part in person(rng)]
    return Thing([part.moved((0.0, 0.0, 0.0), float(rng.uniform(0.0, 6.3))) for part in parts], 0.6, 0.6)


def picture(rng: np.random.Generator) -> Thing:
    """A picture, a poster or a board on the wall; its centre is at z = 0, the wall at x = 0."""
    width, height = rng.uniform(0.3, 1.3), rng.uniform(0.25, 0.9)
    front = box(
        (0.02, width, height),
        (0.01, 0.0, 0.0),
        (_pick(rng, PICTURES), "plain", "plain"),
        RoomClass.PICTURE,
        tile="stretched",
    )
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
