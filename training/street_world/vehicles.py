"""Cars, vans, lorries, buses and two-wheelers: closed bodies around their own origin on the ground, facing +x."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scene_completion_training.street_world.classes import StreetClass
from scene_completion_training.street_world.parts import (
    Colour,
    Part,
    box,
    cylinder,
    ellipsoid,
    extrusion,
    frustum,
    moved_all,
)
from scene_completion_training.street_world.people import rider

PAINTS: tuple[Colour, ...] = (
    (0.75, 0.76, 0.78),
    (0.90, 0.90, 0.88),
    (0.04, 0.04, 0.05),
    (0.10, 0.10, 0.11),
    (0.30, 0.31, 0.33),
    (0.50, 0.51, 0.53),
    (0.36, 0.03, 0.03),
    (0.04, 0.08, 0.24),
    (0.10, 0.16, 0.26),
    (0.45, 0.42, 0.36),
    (0.05, 0.14, 0.09),
    (0.55, 0.38, 0.08),
)
PAINT_SHARES = np.array([4, 3, 4, 3, 3, 3, 1.2, 1.5, 1, 0.7, 0.5, 0.3])
LIGHT, LAMP_RED, PLATE = (1.2, 1.2, 1.15), (0.6, 0.02, 0.02), (1.0, 1.0, 0.9)


@dataclass(frozen=True)
class Vehicle:
    """A vehicle.

    Args:
        parts: Its meshes.
        length: Metres along x, centred on the origin.
        width: Metres along y.
    """

    parts: list[Part]
    length: float
    width: float


@dataclass(frozen=True)
class _Body:
    """Proportions of a car body, metres: heights above the ground, positions along x from the middle."""

    length: float
    half: float
    clearance: float
    waist: float
    roof: float
    bonnet: float
    tail: float
    screen: float
    slant: float
    tyre: float


# length, half width, clearance, waist, roof, bonnet and tail (share of the length), run of screen and rear window
_SHAPES: dict[str, tuple[float, ...]] = {
    "small": (3.55, 0.80, 0.20, 0.88, 1.48, 0.27, -0.48, 0.62, 0.22, 0.28),
    "hatchback": (4.15, 0.88, 0.20, 0.90, 1.46, 0.24, -0.48, 0.75, 0.42, 0.31),
    "estate": (4.6, 0.89, 0.19, 0.89, 1.46, 0.23, -0.49, 0.80, 0.30, 0.31),
    "saloon": (4.65, 0.90, 0.18, 0.90, 1.43, 0.22, -0.34, 0.80, 0.62, 0.32),
    "sports": (4.25, 0.90, 0.14, 0.80, 1.27, 0.18, -0.40, 0.95, 0.90, 0.33),
    "suv": (4.55, 0.94, 0.27, 1.02, 1.70, 0.25, -0.49, 0.70, 0.32, 0.36),
    "minivan": (4.6, 0.91, 0.20, 0.97, 1.68, 0.31, -0.49, 0.90, 0.26, 0.31),
}
_SHAPE_SHARES = (0.12, 0.30, 0.18, 0.13, 0.04, 0.12, 0.11)


def paint(rng: np.random.Generator) -> Colour:
    """A usual car colour, a little off."""
    colour = PAINTS[int(rng.choice(len(PAINTS), p=PAINT_SHARES / PAINT_SHARES.sum()))]
    shade = float(rng.uniform(0.85, 1.15))
    return (colour[0] * shade, colour[1] * shade, colour[2] * shade)


def car(rng: np.random.Generator) -> Vehicle:
    """A car from the smallest to minivans and off-roaders."""
    shape = _SHAPES[str(rng.choice(list(_SHAPES), p=_SHAPE_SHARES))]
    stretch = rng.normal(1.0, 0.03, 4)
    length = shape[0] * float(np.clip(stretch[0], 0.93, 1.07))
    body = _Body(
        length=length,
        half=shape[1] * float(np.clip(stretch[1], 0.96, 1.04)),
        clearance=shape[2],
        waist=shape[3] * float(np.clip(stretch[2], 0.96, 1.04)),
        roof=shape[4] * float(np.clip(stretch[3], 0.97, 1.04)),
        bonnet=shape[5] * length,
        tail=shape[6] * length,
        screen=shape[7],
        slant=shape[8],
        tyre=shape[9],
    )
    return Vehicle(_car_body(body, paint(rng), StreetClass.CAR), length, 2 * body.half)


def _car_body(body: _Body, colour: Colour, label: StreetClass) -> list[Part]:
    end, half = body.length / 2, body.half
    inner = half - 0.17
    crown = body.roof - 0.05
    nose = _nose_height(body)
    lower = np.array(
        [
            (-end, 0.36),
            (-end + 0.12, body.clearance),
            (end - 0.12, body.clearance),
            (end, 0.34),
            (end, 0.60),
            (end - 0.25, nose),
            (body.bonnet, body.waist),
            (-end + 0.08, body.waist),
            (-end, body.waist - 0.14),
        ]
    )
    glass = ("car_screen", "car_glass", "metal")
    foot = (body.tail, body.bonnet, -half + 0.04, half - 0.04)
    eaves = (body.tail + body.slant, body.bonnet - body.screen, -inner, inner)
    brow = (eaves[0] + 0.12, eaves[1] - 0.18, -inner + 0.14, inner - 0.14)
    parts = [
        extrusion(lower, (-half + 0.03, half - 0.03), ("car_side", "metal"), label, tint=colour, tile=None),
        box((0.82 * body.length, 2 * half, 0.22), (0.0, 0.0, 0.62), "metal", label, tint=colour),  # flank
        frustum(foot, eaves, (body.waist, crown), glass, label, tint=colour, tile=None),
        frustum(eaves, brow, (crown, body.roof), "metal", label, tint=colour, tile=None),
    ]
    for x in (-0.31 * body.length, 0.30 * body.length):
        for side in (-1, 1):
            wheel = cylinder(body.tyre, 0.2, ("wheel", "rubber"), label, sides=14)
            parts.append(wheel.moved((x, side * (half - 0.09), body.tyre)))
    for side in (-1, 1):
        y = side * (half - 0.24)
        parts.append(box((0.10, 0.36, 0.14), (end - 0.05, y, 0.62), "cloth", label, tint=LIGHT))
        parts.append(box((0.06, 0.24, 0.22), (-end + 0.01, y, body.waist - 0.2), "cloth", label, tint=LAMP_RED))
        mirror = (body.bonnet - 0.35, side * (half + 0.05), body.waist + 0.06)
        parts.append(box((0.1, 0.16, 0.13), mirror, "metal", label, tint=colour))
    for x in (end + 0.005, -end - 0.005):
        parts.append(box((0.03, 0.5, 0.11), (x, 0.0, 0.45), "cloth", label, tint=PLATE))
        parts.append(box((0.05, 1.5 * half, 0.16), (x, 0.0, 0.30), "rubber", label))
    return parts


def _nose_height(body: _Body) -> float:
    """Height of the bonnet's front edge that keeps the profile convex."""
    slope = body.length / 2 - 0.25 - body.bonnet
    return max(0.70, (0.60 * slope + 0.25 * body.waist) / (slope + 0.25) + 0.01)


def _wheels(positions: tuple[float, ...], half: float, radius: float, label: StreetClass) -> list[Part]:
    return [
        cylinder(radius, 0.28, ("wheel", "rubber"), label, sides=14).moved((x, side * (half - 0.16), radius))
        for x in positions
        for side in (-1, 1)
    ]


def van(rng: np.random.Generator) -> Vehicle:
    """A delivery van or a camper."""
    length, half, roof = float(rng.uniform(4.9, 5.9)), 0.98, float(rng.uniform(1.95, 2.6))
    colour = paint(rng) if rng.random() < 0.5 else (0.92, 0.92, 0.9)
    label, end = StreetClass.OTHER_VEHICLE, length / 2
    windows = "car_glass" if rng.random() < 0.4 else "metal"
    parts = [
        box(
            (length - 1.3, 2 * half, roof - 1.0),
            (-0.65, 0.0, 0.5 + roof / 2),
            ("metal", windows, "metal"),
            label,
            tint=colour,
            tile=None,
        ),
        box(
            (length - 0.1, 2 * half, 0.76),
            (-0.05, 0.0, 0.62),
            ("metal", "car_side", "metal"),
            label,
            tint=colour,
            tile=None,
        ),
        frustum(
            (end - 1.3, end - 0.1, -half, half),
            (end - 1.3, end - 0.75, -0.92 * half, 0.92 * half),
            (1.0, roof - 0.08),
            ("car_screen", "car_glass", "metal"),
            label,
            tint=colour,
            tile=None,
        ),
        *_wheels((-0.3 * length, 0.31 * length), half, 0.34, label),
    ]
    for side in (-1, 1):
        parts.append(box((0.05, 0.2, 0.5), (-end - 0.01, side * (half - 0.14), 1.1), "cloth", label, tint=LAMP_RED))
        parts.append(box((0.05, 0.34, 0.16), (end - 0.09, side * (half - 0.26), 0.76), "cloth", label, tint=LIGHT))
    parts.append(box((0.1, 1.6 * half, 0.2), (end - 0.06, 0.0, 0.35), "rubber", label))
    return Vehicle(parts, length, 2 * half)


def truck(rng: np.random.Generator, *, long: bool = False) -> Vehicle:
    """A lorry with a box body, or an articulated one."""
    body, half, high = (
        (float(rng.uniform(9.0, 12.5)) if long else float(rng.uniform(4.4, 6.5))),
        1.2,
        float(rng.uniform(3.1, 3.8)),
    )
    label, colour = StreetClass.TRUCK, paint(rng)
    length = body + 2.4
    end = length / 2
    cover = (1.1, 1.1, 1.1) if rng.random() < 0.5 else tuple(float(v) for v in rng.uniform(0.15, 0.9, 3))
    axles = (-end + 1.2, -end + 2.5, end - 1.3) if long else (-end + 1.8, end - 1.2)
    parts = [
        box(
            (body, 2 * half, high - 1.05),
            (-end + body / 2, 0.0, 0.525 + high / 2),
            "concrete",
            label,
            tint=(cover[0], cover[1], cover[2]),
            tile=(3, 3),
        ),
        box((body, 1.3, 0.5), (-end + body / 2, 0.0, 0.82), "rubber", label),
        box((2.1, 2.2, 1.1), (end - 1.05, 0.0, 0.95), "metal", label, tint=colour),
        frustum(
            (end - 2.2, end, -1.1, 1.1),
            (end - 2.2, end - 0.25, -1.05, 1.05),
            (1.5, 2.8),
            ("car_screen", "car_glass", "metal"),
            label,
            tint=colour,
            tile=None,
        ),
        *_wheels(axles, half, 0.48, label),
    ]
    for side in (-1, 1):
        parts.append(box((0.05, 0.3, 0.2), (-end - 0.01, side * 0.9, 0.9), "cloth", label, tint=LAMP_RED))
    return Vehicle(parts, length, 2 * half)


def articulated_lorry(rng: np.random.Generator) -> Vehicle:
    """A long lorry."""
    return truck(rng, long=True)


def bus(rng: np.random.Generator) -> Vehicle:
    """A city bus."""
    length, half, label = float(rng.uniform(10.5, 12.2)), 1.25, StreetClass.OTHER_VEHICLE
    colour: Colour = (float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.05, 0.6)))
    glazed = ("car_screen", "car_glass", "metal")
    parts = [
        box((length, 2 * half, 1.0), (0.0, 0.0, 0.8), "metal", label, tint=colour),
        frustum(
            (-length / 2, length / 2, -half, half),
            (-length / 2 + 0.1, length / 2 - 0.2, -half + 0.08, half - 0.08),
            (1.3, 2.75),
            glazed,
            label,
            tint=colour,
            tile=None,
        ),
        box((length - 0.5, 2 * half - 0.3, 0.25), (0.0, 0.0, 2.87), "metal", label, tint=(0.8, 0.8, 0.8)),
        *_wheels((-0.26 * length, 0.3 * length), half, 0.48, label),
    ]
    return Vehicle(parts, length, 2 * half)


def trailer(rng: np.random.Generator) -> Vehicle:
    """A caravan or a small flat trailer."""
    label = StreetClass.OTHER_VEHICLE
    if rng.random() < 0.5:
        profile = np.array([(-2.2, 0.9), (-2.0, 0.5), (2.0, 0.5), (2.3, 1.2), (1.9, 2.5), (-1.9, 2.5)])
        body = extrusion(profile, (-1.1, 1.1), ("car_glass", "metal"), label, tint=(1.0, 1.0, 0.97), tile=None)
        return Vehicle([body, *_wheels((-0.2,), 1.1, 0.3, label)], 4.6, 2.2)
    bed = box((2.6, 1.5, 0.5), (0.0, 0.0, 0.75), "planks", label, tint=(0.5, 0.5, 0.5), tile=(2, 1.2))
    return Vehicle([bed, *_wheels((0.0,), 0.9, 0.28, label)], 3.0, 1.8)


def _tube(start: tuple[float, float, float], end: tuple[float, float, float], size: float, label: StreetClass) -> Part:
    """A square rod between two points of the plane y = const."""
    a, b = np.array(start), np.array(end)
    length = float(np.linalg.norm(b - a))
    pitch = -float(np.arctan2(b[2] - a[2], b[0] - a[0]))
    middle = (a + b) / 2
    rod = box((length, size, size), (0.0, 0.0, 0.0), "metal", label, tint=(0.2, 0.2, 0.22))
    return rod.tilted(pitch=pitch).moved((float(middle[0]), float(middle[1]), float(middle[2])))


def bicycle(rng: np.random.Generator, label: StreetClass = StreetClass.BICYCLE) -> Vehicle:
    """Two thin wheels, a frame, a saddle and a handlebar."""
    rear, crank, head, seat = (-0.52, 0.0, 0.34), (-0.08, 0.0, 0.28), (0.36, 0.0, 0.86), (-0.2, 0.0, 0.84)
    parts = [cylinder(0.34, 0.04, ("spokes", "rubber"), label, sides=16).moved((x, 0.0, 0.34)) for x in (-0.52, 0.52)]
    for a, b in ((rear, crank), (crank, head), (seat, head), (seat, crank), (seat, rear), (head, (0.52, 0.0, 0.34))):
        parts.append(_tube(a, b, 0.045, label))
    parts.append(box((0.26, 0.15, 0.07), (-0.24, 0.0, 0.94), "rubber", label))
    parts.append(box((0.06, 0.56, 0.05), (0.32, 0.0, 1.0), "metal", label, tint=(0.15, 0.15, 0.15)))
    parts.append(_tube((0.36, 0.0, 0.8), (0.32, 0.0, 1.0), 0.04, label))
    if rng.random() < 0.4:
        parts.append(box((0.4, 0.3, 0.25), (-0.55, 0.0, 0.88), "planks", label, tile=(2.0, 1.2)))
    return Vehicle(parts, 1.75, 0.56)


def motorcycle(rng: np.random.Generator, label: StreetClass = StreetClass.MOTORCYCLE) -> Vehicle:
    """A motorcycle or a scooter."""
    colour = paint(rng)
    parts = [cylinder(0.31, 0.13, ("wheel", "rubber"), label, sides=14).moved((x, 0.0, 0.31)) for x in (-0.7, 0.72)]
    parts += [
        box((0.7, 0.3, 0.42), (0.0, 0.0, 0.5), "metal", label, tint=(0.25, 0.25, 0.26)),
        ellipsoid((0.34, 0.17, 0.18), (0.18, 0.0, 0.86), "metal", label, tint=colour),
        box((0.75, 0.26, 0.12), (-0.45, 0.0, 0.82), "rubber", label),
        _tube((0.42, 0.0, 0.95), (0.72, 0.0, 0.31), 0.1, label),
        _tube((-0.1, 0.0, 0.5), (-0.7, 0.0, 0.31), 0.12, label),
        box((0.07, 0.7, 0.06), (0.38, 0.0, 1.05), "metal", label, tint=(0.12, 0.12, 0.12)),
        box((0.1, 0.2, 0.2), (0.52, 0.0, 0.88), "cloth", label, tint=LIGHT),
    ]
    return Vehicle(parts, 2.05, 0.7)


def cyclist(rng: np.random.Generator) -> Vehicle:
    """Somebody on a bicycle."""
    label = StreetClass.BICYCLIST
    return Vehicle([*bicycle(rng, label).parts, *rider(rng, label, saddle=0.95)], 1.75, 0.56)


def motorcyclist(rng: np.random.Generator) -> Vehicle:
    """Somebody on a motorcycle."""
    label = StreetClass.MOTORCYCLIST
    return Vehicle(
        [*motorcycle(rng, label).parts, *moved_all(rider(rng, label, saddle=0.85), (-0.1, 0.0, 0.0))], 2.05, 0.7
    )
