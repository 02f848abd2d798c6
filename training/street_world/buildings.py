"""Houses: a body with a painted front, a roof, and what sticks out of them."""

from __future__ import annotations

import numpy as np

from training.street_world.classes import StreetClass
from training.street_world.facade_textures import BAYS, FACADE_COUNT, FLOORS
from training.street_world.parts import Colour, Part, box, extrusion, frustum

FOUNDATION_M = 0.8  # the body reaches below the ground, so that no gap opens on a slope
ROOF_TINTS: tuple[Colour, ...] = (
    (0.55, 0.22, 0.14),
    (0.28, 0.26, 0.26),
    (0.42, 0.26, 0.18),
    (0.20, 0.22, 0.25),
)


def house(rng: np.random.Generator, width: float, depth: float, floors: int) -> list[Part]:
    """A house along x (0 ... width) whose front lies in the plane y = 0 and faces -y.

    Args:
        floors: One to `FLOORS`.
    """
    facade = f"facade_{int(rng.integers(FACADE_COUNT))}"
    floor_height = float(rng.uniform(2.9, 3.3))
    bays = max(2, round(width / float(rng.uniform(2.6, 3.4))))
    height = floors * floor_height
    tint_shade = rng.uniform(0.78, 1.08, 3) * rng.uniform(0.85, 1.05)
    tint = (float(tint_shade[0]), float(tint_shade[1]), float(tint_shade[2]))
    tile = (width / bays * BAYS, floor_height * FLOORS)
    building = StreetClass.BUILDING
    rectangle = (0.0, width, 0.0, depth)
    parts = [
        frustum(rectangle, rectangle, (0.0, height), (facade, facade, "concrete"), building, tint=tint, tile=tile),
        box(
            (width, depth, FOUNDATION_M),
            (width / 2, depth / 2, -FOUNDATION_M / 2),
            "concrete",
            building,
            tile=(3.0, 3.0),
        ),
    ]
    roof_tint = ROOF_TINTS[int(rng.integers(len(ROOF_TINTS)))]
    if rng.random() < 0.7:
        parts += _gable(rng, width, depth, height, roof_tint)
    else:
        parts += _flat(rng, width, depth, height, tint)
    parts += _front_details(rng, width / bays, bays, floors, floor_height, tint)
    return parts


def _gable(rng: np.random.Generator, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    rise = depth * float(rng.uniform(0.28, 0.48))
    over = 0.35
    if rng.random() < 0.65:  # ridge along the street: a prism along x, drawn along y and turned
        profile = np.array([(-depth / 2 - over, 0.0), (depth / 2 + over, 0.0), (0.0, rise)])
        roof = extrusion(profile, (0.0, width), ("concrete", "roof"), StreetClass.BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, 0.0), yaw=-np.pi / 2).moved((0.0, depth / 2, height))
    else:
        rise = min(rise, width * 0.45)
        profile = np.array([(-over, 0.0), (width + over, 0.0), (width / 2, rise)])
        caps = ("planks", "roof")
        roof = extrusion(profile, (-0.2, depth), caps, StreetClass.BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, height))
    stack = (float(rng.uniform(0.15, 0.85)) * width, depth * float(rng.uniform(0.55, 0.7)), height + rise * 0.8)
    return [roof, box((0.6, 0.6, 1.8), stack, "bricks", StreetClass.BUILDING, tile=(2.0, 2.0))]


def _flat(rng: np.random.Generator, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    parapet = box(
        (width + 0.3, depth + 0.3, 0.5), (width / 2, depth / 2, height + 0.25), "concrete", StreetClass.BUILDING,
        tint=tint, tile=(3.0, 3.0),
    )  # fmt: skip
    hut = (width * float(rng.uniform(0.3, 0.7)), depth * 0.6, height + 1.2)
    return [parapet, box((2.6, 2.2, 1.8), hut, "concrete", StreetClass.BUILDING, tile=(3.0, 3.0))]


def _front_details(
    rng: np.random.Generator, bay: float, bays: int, floors: int, floor_height: float, tint: Colour
) -> list[Part]:
    """Balconies, an awning or bay windows, sometimes nothing."""
    building = StreetClass.BUILDING
    kind = rng.random()
    parts: list[Part] = []
    if kind < 0.3 and floors > 1:
        for floor in range(1, floors):
            for column in range(int(rng.integers(0, 2)), bays, 2):
                x, z = (column + 0.5) * bay, floor * floor_height
                parts.append(box((0.8 * bay, 1.1, 0.16), (x, -0.55, z), "concrete", building, tint=tint, tile=(3, 3)))
                rail = (x, -1.06, z + 0.55)
                parts.append(
                    box((0.8 * bay, 0.06, 0.95), rail, "planks", building, tint=(0.5, 0.5, 0.5), tile=(2, 0.95))
                )
    elif kind < 0.45:
        colour = rng.uniform(0.1, 0.8, 3)
        awning = frustum(
            (0.2, bays * bay - 0.2, -1.3, 0.0), (0.2, bays * bay - 0.2, -0.1, 0.0), (2.45, 2.95), "cloth", building,
            tint=(float(colour[0]), float(colour[1]), float(colour[2])), tile=(0.8, 0.8),
        )  # fmt: skip
        parts.append(awning)
    return parts
