"""Houses: a body with a painted front, a roof, and what sticks out of them."""

from __future__ import annotations

import numpy as np

from scene_completion_training.street_world.classes import StreetClass
from scene_completion_training.street_world.facade_textures import BAYS, FACADE_COUNT, FLOORS
from scene_completion_training.street_world.parts import Colour, Part, box, extrusion, frustum, grey, triple

BUILDING = StreetClass.BUILDING
FOUNDATION_M = 2.5  # the body reaches below the ground, so that no gap opens on a slope
ROOF_TINTS: tuple[Colour, ...] = ((0.55, 0.22, 0.14), (0.28, 0.26, 0.26), (0.42, 0.26, 0.18), (0.20, 0.22, 0.25))


def house(
    rng: np.random.Generator, width: float, depth: float, floors: int, *, shops: bool, arcade_m: float = 0.0
) -> list[Part]:
    """A house along x (0 ... width) whose front lies in the plane y = 0 and faces -y.

    Args:
        floors: One to `FLOORS`.
        shops: Whether there may be shops on the ground floor.
        arcade_m: How far an arcade stands out of the front; 0 for none.
    """
    kind = int(rng.integers(FACADE_COUNT))
    facade = f"facade_{kind if shops else kind | 1}"  # odd ones have no shops
    floor_height = float(rng.uniform(2.9, 3.3))
    bays = max(2, round(width / float(rng.uniform(2.6, 3.4))))
    height = floors * floor_height
    tint = triple(rng.uniform(0.94, 1.06, 3) * rng.uniform(0.6, 1.12))
    tile = (width / bays * BAYS, floor_height * FLOORS)
    rectangle = (0.0, width, 0.0, depth)
    parts = [
        frustum(rectangle, rectangle, (0.0, height), (facade, facade, "concrete"), BUILDING, tint=tint, tile=tile),
        box((width, depth, FOUNDATION_M), (width / 2, depth / 2, -FOUNDATION_M / 2), "concrete", BUILDING),
    ]
    roof_tint = ROOF_TINTS[int(rng.integers(len(ROOF_TINTS)))]
    if rng.random() < 0.7:
        parts += _gable(rng, width, depth, height, roof_tint)
    else:
        parts += _flat(rng, width, depth, height, tint)
    if arcade_m > 0.0:
        return parts + arcade(width, floor_height, arcade_m)
    return parts + _front_details(rng, width / bays, bays, floors, floor_height, tint)


def hall(rng: np.random.Generator, width: float, depth: float) -> list[Part]:
    """A workshop or a supermarket along x (0 ... width), front in the plane y = 0: a box with a band of windows."""
    height = float(rng.uniform(4.0, 9.0))
    shade = float(rng.uniform(0.5, 1.1))
    tint = (shade, shade, shade * float(rng.uniform(0.95, 1.08)))
    walls = str(rng.choice(["concrete", "planks", "bricks"]))
    size, centre = (width, depth, height + FOUNDATION_M), (width / 2, depth / 2, (height - FOUNDATION_M) / 2)
    gate = (width * float(rng.uniform(0.2, 0.8)), -0.02, 1.5)
    sign = (width * 0.5, -0.15, height - 0.7)
    return [
        box(size, centre, walls, BUILDING, tint=tint, tile=(3.0, 3.0)),
        box((width * 0.8, 0.1, 1.1), (width / 2, -0.02, 0.6 * height), "car_glass", BUILDING, tile=(4.0, 1.1)),
        box((3.2, 0.1, 3.0), gate, "metal", BUILDING, tint=grey(0.3)),
        box((width * 0.3, 0.2, 0.9), sign, "metal", BUILDING, tint=triple(rng.uniform(0.05, 0.9, 3))),
    ]


def garage(rng: np.random.Generator) -> list[Part]:
    """A garage of 3 m by 6 m along x, door in the plane y = 0."""
    walls = box((3.0, 6.0, 2.6 + FOUNDATION_M), (1.5, 3.0, 1.3 - FOUNDATION_M / 2), "concrete", BUILDING)
    paint = grey(float(rng.uniform(0.2, 1.0)))
    return [walls, box((2.4, 0.06, 2.1), (1.5, -0.02, 1.05), "planks", BUILDING, tint=paint, tile=(2.0, 2.1))]


def arcade(width: float, height: float, reach: float) -> list[Part]:
    """Columns and the storey over them, before a house front along x (0 ... width)."""
    y, z, column = -reach + 0.25, height / 2 - 0.25, (0.45, 0.45, height + 0.5)
    return [
        box((width, reach, 0.7), (width / 2, -reach / 2, height + 0.35), "concrete", BUILDING),
        *(box(column, (x, y, z), "concrete", BUILDING) for x in np.arange(0.3, width, 3.0).tolist()),
    ]


def _gable(rng: np.random.Generator, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    rise = depth * float(rng.uniform(0.28, 0.48))
    over = 0.35
    if rng.random() < 0.65:  # ridge along the street: a prism along x, drawn along y and turned
        profile = np.array([(-depth / 2 - over, 0.0), (depth / 2 + over, 0.0), (0.0, rise)])
        roof = extrusion(profile, (0.0, width), ("concrete", "roof"), BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, 0.0), yaw=-np.pi / 2).moved((0.0, depth / 2, height))
    else:
        rise = min(rise, width * 0.45)
        profile = np.array([(-over, 0.0), (width + over, 0.0), (width / 2, rise)])
        roof = extrusion(profile, (-0.2, depth), ("planks", "roof"), BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, height))
    stack = (float(rng.uniform(0.15, 0.85)) * width, depth * float(rng.uniform(0.55, 0.7)), height + rise * 0.8)
    return [roof, box((0.6, 0.6, 1.8), stack, "bricks", BUILDING)]


def _flat(rng: np.random.Generator, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    rim = (width / 2, depth / 2, height + 0.25)
    parapet = box((width + 0.3, depth + 0.3, 0.5), rim, "concrete", BUILDING, tint=tint)
    hut = (width * float(rng.uniform(0.3, 0.7)), depth * 0.6, height + 1.2)
    return [parapet, box((2.6, 2.2, 1.8), hut, "concrete", BUILDING)]


def _front_details(
    rng: np.random.Generator, bay: float, bays: int, floors: int, floor_height: float, tint: Colour
) -> list[Part]:
    """Balconies, an awning or bay windows, sometimes nothing."""
    kind = rng.random()
    parts: list[Part] = []
    if kind < 0.3 and floors > 1:
        for floor in range(1, floors):
            for column in range(int(rng.integers(0, 2)), bays, 2):
                x, z = (column + 0.5) * bay, floor * floor_height
                parts.append(box((0.8 * bay, 1.1, 0.16), (x, -0.55, z), "concrete", BUILDING, tint=tint))
                size, rail = (0.8 * bay, 0.06, 0.95), (x, -1.06, z + 0.55)
                parts.append(box(size, rail, "planks", BUILDING, tint=grey(0.5), tile=(2, 0.95)))
    elif kind < 0.45:
        colour = triple(rng.uniform(0.1, 0.8, 3))
        low, high = (0.2, bays * bay - 0.2, -1.3, 0.0), (0.2, bays * bay - 0.2, -0.1, 0.0)
        parts.append(frustum(low, high, (2.45, 2.95), "cloth", BUILDING, tint=colour, tile=(0.8, 0.8)))
    return parts
