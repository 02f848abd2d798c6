"""Things that stand on the street, each a list of parts around its own origin on the ground, facing +x."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.street_world.classes import StreetClass
from training.street_world.facade_textures import SIGN_COUNT
from training.street_world.parts import Colour, Part, box, cylinder, ellipsoid, extrusion, frustum, upright

CAR_PAINTS: tuple[Colour, ...] = (
    (0.75, 0.76, 0.78),
    (0.06, 0.06, 0.07),
    (0.30, 0.31, 0.33),
    (0.45, 0.03, 0.03),
    (0.04, 0.10, 0.35),
    (0.55, 0.55, 0.52),
    (0.05, 0.18, 0.10),
    (0.60, 0.42, 0.08),
)
GROUND_CLEARANCE_M = 0.22
LIGHT, LAMP_RED, PLATE = (1.2, 1.2, 1.15), (0.6, 0.02, 0.02), (1.0, 1.0, 0.9)


def car(rng: np.random.Generator) -> tuple[list[Part], float]:
    """A saloon, estate or van; parts and length in metres."""
    kind = str(rng.choice(["hatchback", "estate", "saloon", "van"], p=[0.35, 0.25, 0.25, 0.15]))
    length = float({"hatchback": 3.9, "estate": 4.5, "saloon": 4.5, "van": 4.8}[kind] + rng.uniform(-0.2, 0.25))
    half = float(rng.uniform(0.85, 0.91))
    waist = float(rng.uniform(0.86, 0.93)) + 0.15 * (kind == "van")
    roof = {"hatchback": 1.46, "estate": 1.45, "saloon": 1.42, "van": 1.92}[kind] + float(rng.uniform(-0.03, 0.05))
    tail = {"hatchback": -0.47, "estate": -0.49, "saloon": -0.36, "van": -0.495}[kind] * length
    bonnet = (0.24 if kind != "van" else 0.36) * length
    paint = CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]
    end = length / 2
    slope = end - 0.25 - bonnet
    nose = max(0.74, (0.62 * slope + 0.25 * waist) / (slope + 0.25) + 0.01)  # high enough to keep the body convex
    body = np.array(
        [
            (-end, 0.36), (-end + 0.12, GROUND_CLEARANCE_M), (end - 0.12, GROUND_CLEARANCE_M), (end, 0.34),
            (end, 0.62), (end - 0.25, nose), (bonnet, waist), (-end + 0.08, waist), (-end, waist - 0.12),
        ]
    )  # fmt: skip
    slant = 0.30 if kind in ("estate", "van") else 0.5
    inner = half - 0.13
    parts = [
        extrusion(body, (-half, half), ("car_side", "metal"), StreetClass.CAR, tint=paint, tile=None),
        frustum(
            (tail, bonnet, -half + 0.03, half - 0.03),
            (tail + slant * (0.5 if kind != "saloon" else 1.0), bonnet - 0.75, -inner, inner),
            (waist, roof),
            ("car_screen", "car_glass", "metal"),
            StreetClass.CAR,
            tint=paint,
            tile=None,
        ),
    ]
    for x in (-0.31 * length, 0.30 * length):
        for side in (-1, 1):
            tyre = cylinder(0.31, 0.2, ("wheel", "rubber"), StreetClass.CAR, sides=16)
            parts.append(tyre.moved((x, side * (half - 0.085), 0.31)))
    for side in (-1, 1):
        y = side * (half - 0.22)
        parts.append(box((0.06, 0.34, 0.13), (end - 0.01, y, 0.60), "cloth", StreetClass.CAR, tint=LIGHT))
        parts.append(box((0.05, 0.26, 0.20), (-end + 0.01, y, 0.72), "cloth", StreetClass.CAR, tint=LAMP_RED))
        mirror = (bonnet - 0.35, side * (half + 0.06), waist + 0.06)
        parts.append(box((0.1, 0.16, 0.13), mirror, "metal", StreetClass.CAR, tint=paint))
    for x in (end + 0.005, -end - 0.005):
        parts.append(box((0.03, 0.5, 0.11), (x, 0.0, 0.45), "cloth", StreetClass.CAR, tint=PLATE))
    return parts, length


def truck(rng: np.random.Generator) -> tuple[list[Part], float]:
    """A delivery lorry with a box body; parts and length in metres."""
    length, half = 6.6, 1.1
    paint = CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]
    cab = frustum(
        (1.7, 3.3, -1.0, 1.0), (1.7, 2.9, -0.95, 0.95), (1.15, 2.3), ("car_screen", "car_glass", "metal"),
        StreetClass.TRUCK, tint=paint, tile=None,
    )  # fmt: skip
    parts = [
        box((4.9, 2 * half, 2.3), (-0.85, 0.0, 2.05), "concrete", StreetClass.TRUCK, tint=(1.1, 1.1, 1.1), tile=(3, 3)),
        box((4.9, 1.2, 0.4), (-0.85, 0.0, 0.7), "rubber", StreetClass.TRUCK),
        box((1.6, 2.0, 0.8), (2.5, 0.0, 0.75), "metal", StreetClass.TRUCK, tint=paint),
        cab,
    ]
    for x in (-1.9, 2.3):
        for side in (-1, 1):
            tyre = cylinder(0.42, 0.28, ("wheel", "rubber"), StreetClass.TRUCK, sides=16)
            parts.append(tyre.moved((x, side * (half - 0.17), 0.42)))
    return parts, length


def tree(rng: np.random.Generator, height: float) -> list[Part]:
    """A broad-leaved tree: trunk, a few limbs, and a crown of overlapping leafy ellipsoids."""
    leaves = str(rng.choice(["leaves", "leaves_dark", "leaves_yellow"], p=[0.5, 0.3, 0.2]))
    clear = max(2.2, 0.36 * height)
    radius = 0.02 * height + 0.04
    parts = [_pole(radius, clear + 0.25 * height, (0.0, 0.0, -0.1), "bark", StreetClass.TRUNK)]
    crown = np.array([0.27, 0.27, 0.33]) * height * rng.uniform(0.85, 1.1, 3)
    centre = np.array([0.0, 0.0, clear + crown[2] * 0.85])
    parts.append(_leaf_ball(rng, crown * 0.6, centre, leaves))
    count = 36
    azimuth = np.arange(count) * 2.39996 + rng.uniform(0, 6.28)  # golden angle: even cover of the sphere
    rise = np.clip(1.0 - 2.0 * (np.arange(count) + 0.5) / count, -0.8, 1.0)
    ring = np.sqrt(1.0 - rise**2)
    outward = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), rise], axis=-1)
    for direction in outward:
        size = crown.mean() * rng.uniform(0.16, 0.36)
        radii = size * rng.uniform(0.75, 1.3, 3)
        parts.append(_leaf_ball(rng, radii, centre + direction * crown * rng.uniform(0.55, 0.98), leaves))
    return parts


def _leaf_ball(rng: np.random.Generator, radii: NDArray[np.float64], centre: NDArray[np.float64], texture: str) -> Part:
    shade = float(rng.uniform(0.75, 1.15))
    tint = (shade * float(rng.uniform(0.92, 1.08)), shade, shade * float(rng.uniform(0.9, 1.05)))
    size = (float(radii[0]), float(radii[1]), float(radii[2]))
    middle = (float(centre[0]), float(centre[1]), float(centre[2]))
    return ellipsoid(size, middle, texture, StreetClass.VEGETATION, tint=tint, tile=1.6)


def bush(rng: np.random.Generator, size: float) -> list[Part]:
    """A few leafy balls on the ground."""
    leaves = str(rng.choice(["leaves", "leaves_dark", "leaves_yellow"]))
    return [
        _leaf_ball(rng, size * rng.uniform(0.45, 0.7, 3), np.array([*rng.uniform(-0.4, 0.4, 2), 0.4]) * size, leaves)
        for _ in range(4)
    ]


def hedge(length: float, height: float, dark: bool) -> list[Part]:
    """A clipped hedge along x, starting at the origin."""
    texture = "leaves_dark" if dark else "leaves"
    low, high = (0.0, length, -0.35, 0.35), (0.05, length - 0.05, -0.28, 0.28)
    return [frustum(low, high, (-0.1, height), texture, StreetClass.VEGETATION, tile=(1.6, 1.6))]


def fence(length: float) -> list[Part]:
    """A board fence along x, starting at the origin."""
    middle = (length / 2, 0.0, 0.55)
    return [box((length, 0.06, 1.2), middle, "planks", StreetClass.FENCE, tile=(2.0, 1.2))]


def low_wall(length: float) -> list[Part]:
    """A garden wall along x, starting at the origin."""
    return [
        box((length, 0.25, 1.0), (length / 2, 0.0, 0.4), "bricks", StreetClass.FENCE, tile=(2.0, 2.0)),
        box((length, 0.32, 0.08), (length / 2, 0.0, 0.94), "concrete", StreetClass.FENCE, tile=(3.0, 3.0)),
    ]


def _pole(
    radius: float,
    length: float,
    foot: tuple[float, float, float],
    texture: str,
    label: StreetClass,
    tint: Colour = (1.0, 1.0, 1.0),
    sides: int = 10,
) -> Part:
    body = cylinder(radius, length, (texture, texture), label, tint=tint, tile=(1.0, 1.0), sides=sides)
    return upright(body, foot, length)


def street_lamp() -> list[Part]:
    """A lamp post whose arm reaches along +x."""
    grey = (0.35, 0.36, 0.37)
    return [
        _pole(0.09, 7.0, (0.0, 0.0, -0.1), "metal", StreetClass.POLE, grey),
        _pole(0.15, 1.1, (0.0, 0.0, -0.1), "metal", StreetClass.POLE, (0.25, 0.26, 0.27)),
        box((1.6, 0.08, 0.08), (0.75, 0.0, 6.85), "metal", StreetClass.POLE, tint=grey),
        box((0.7, 0.28, 0.12), (1.6, 0.0, 6.82), "metal", StreetClass.POLE, tint=(0.5, 0.5, 0.5)),
    ]


def traffic_sign(rng: np.random.Generator) -> list[Part]:
    """A sign on a post, its face towards -x (the traffic that drives along +x)."""
    kind = f"sign_{int(rng.integers(SIGN_COUNT))}"
    height = float(rng.uniform(2.3, 2.6))
    plate = box((0.03, 0.7, 0.7), (-0.06, 0.0, height), (kind, "metal", "metal"), StreetClass.TRAFFIC_SIGN, tile=None)
    if kind == "sign_0":
        plate = plate.moved((0.06, 0.0, -height)).tilted(roll=np.pi / 4).moved((-0.06, 0.0, height))
    return [_pole(0.04, height + 0.3, (0.0, 0.0, -0.1), "metal", StreetClass.POLE, (0.6, 0.6, 0.6)), plate]


def bollard() -> list[Part]:
    """A short post."""
    return [_pole(0.07, 1.0, (0.0, 0.0, -0.1), "metal", StreetClass.POLE, (0.15, 0.15, 0.16))]


def person(rng: np.random.Generator) -> list[Part]:
    """Somebody standing or in mid-step."""
    tall = float(rng.uniform(0.92, 1.06))
    coat: Colour = (float(rng.uniform(0.03, 0.7)), float(rng.uniform(0.03, 0.5)), float(rng.uniform(0.03, 0.6)))
    trousers: Colour = (0.05, 0.06, float(rng.uniform(0.06, 0.25)))
    skin, hair = (0.55, 0.36, 0.26), (0.10, 0.07, 0.05)
    step = float(rng.uniform(0.0, 0.22))
    kind = StreetClass.PERSON
    parts = []
    for side in (-1, 1):
        x = side * step
        leg_low, leg_high = (x - 0.07, x + 0.09, side * 0.1 - 0.06, side * 0.1 + 0.06), (-0.09, 0.09, -0.16, 0.16)
        parts.append(frustum(leg_low, leg_high, (0.0, 0.88 * tall), "cloth", kind, tint=trousers, tile=(0.8, 0.8)))
        arm = ellipsoid((0.07, 0.06, 0.34), (-0.4 * x, side * 0.25, 1.13 * tall), "cloth", kind, tint=coat)
        parts.append(arm)
    parts.append(ellipsoid((0.16, 0.23, 0.37), (0.0, 0.0, 1.14 * tall), "cloth", kind, tint=coat, tile=0.8))
    parts.append(ellipsoid((0.10, 0.085, 0.13), (0.02, 0.0, 1.60 * tall), "cloth", kind, tint=skin))
    parts.append(ellipsoid((0.10, 0.092, 0.10), (-0.02, 0.0, 1.65 * tall), "cloth", kind, tint=hair))
    return parts
