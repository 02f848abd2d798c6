"""People, cars, vans, lorries, buses and two-wheelers: around their own origin on the ground, facing +x."""

from dataclasses import dataclass, replace

import numpy as np

from scene_completion_training.arrays import Random
from scene_completion_worlds.street import parts as shapes
from scene_completion_worlds.street.parts import Colour, Part, box, cylinder, ellipsoid, frustum, grey, triple
from scene_completion_worlds.street.street_line import StreetClass

PAINTS = np.array(  # usual colours of cars: how usual, and linear red, green, blue
    [
        (4, 0.75, 0.76, 0.78), (3, 0.90, 0.90, 0.88), (4, 0.04, 0.04, 0.05), (3, 0.10, 0.10, 0.11),
        (3, 0.30, 0.31, 0.33), (3, 0.50, 0.51, 0.53), (1.2, 0.36, 0.03, 0.03), (1.5, 0.04, 0.08, 0.24),
        (1, 0.10, 0.16, 0.26), (0.7, 0.45, 0.42, 0.36), (0.5, 0.05, 0.14, 0.09), (0.3, 0.55, 0.38, 0.08),
    ]
)  # fmt: skip
LIGHT, LAMP_RED, PLATE = (1.2, 1.2, 1.15), (0.6, 0.02, 0.02), (1.0, 1.0, 0.9)
GLAZED = ("car_screen", "car_glass", "metal")
SKIN: tuple[Colour, ...] = ((0.55, 0.36, 0.26), (0.42, 0.26, 0.18), (0.62, 0.44, 0.34), (0.16, 0.09, 0.06))
HAIR: tuple[Colour, ...] = ((0.10, 0.07, 0.05), (0.30, 0.20, 0.10), (0.45, 0.43, 0.40), (0.02, 0.02, 0.02))


@dataclass(frozen=True)
class Vehicle:
    """A vehicle, so many metres long (along x, centred on the origin) and wide."""

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


_SHAPES: dict[str, _Body] = {  # bonnet and tail as shares of the length
    "small": _Body(3.55, 0.80, 0.20, 0.88, 1.48, 0.27, -0.48, 0.62, 0.22, 0.28),
    "hatchback": _Body(4.15, 0.88, 0.20, 0.90, 1.46, 0.24, -0.48, 0.75, 0.42, 0.31),
    "estate": _Body(4.6, 0.89, 0.19, 0.89, 1.46, 0.23, -0.49, 0.80, 0.30, 0.31),
    "saloon": _Body(4.65, 0.90, 0.18, 0.90, 1.43, 0.22, -0.34, 0.80, 0.62, 0.32),
    "sports": _Body(4.25, 0.90, 0.14, 0.80, 1.27, 0.18, -0.40, 0.95, 0.90, 0.33),
    "suv": _Body(4.55, 0.94, 0.27, 1.02, 1.70, 0.25, -0.49, 0.70, 0.32, 0.36),
    "minivan": _Body(4.6, 0.91, 0.20, 0.97, 1.68, 0.31, -0.49, 0.90, 0.26, 0.31),
}
_SHAPE_SHARES = (0.12, 0.30, 0.18, 0.13, 0.04, 0.12, 0.11)


def paint(rng: Random) -> Colour:
    """A usual car colour, a little off."""
    colour = PAINTS[int(rng.choice(len(PAINTS), p=PAINTS[:, 0] / PAINTS[:, 0].sum())), 1:]
    return triple(colour * rng.uniform(0.85, 1.15))


def car(rng: Random) -> Vehicle:
    """A car from the smallest to minivans and off-roaders."""
    shape = _SHAPES[str(rng.choice(list(_SHAPES), p=_SHAPE_SHARES))]
    stretch = np.clip(rng.normal(1.0, 0.03, 4), (0.93, 0.96, 0.96, 0.97), (1.07, 1.04, 1.04, 1.04)).tolist()
    length = shape.length * stretch[0]
    half, waist, roof = shape.half * stretch[1], shape.waist * stretch[2], shape.roof * stretch[3]
    bonnet, tail = shape.bonnet * length, shape.tail * length
    body = replace(shape, length=length, half=half, waist=waist, roof=roof, bonnet=bonnet, tail=tail)
    return Vehicle(_car_body(body, paint(rng), StreetClass.CAR), length, 2 * body.half)


def _car_body(body: _Body, colour: Colour, label: StreetClass) -> list[Part]:
    end, half = body.length / 2, body.half
    inner = half - 0.17
    crown = body.roof - 0.05
    slope = end - 0.25 - body.bonnet
    nose = max(0.70, (0.60 * slope + 0.25 * body.waist) / (slope + 0.25) + 0.01)  # keeps the profile convex
    below = [(-end, 0.36), (-end + 0.12, body.clearance), (end - 0.12, body.clearance), (end, 0.34), (end, 0.60)]
    above = [(end - 0.25, nose), (body.bonnet, body.waist), (-end + 0.08, body.waist), (-end, body.waist - 0.14)]
    lower = np.array(below + above)
    foot = (body.tail, body.bonnet, -half + 0.04, half - 0.04)
    eaves = (body.tail + body.slant, body.bonnet - body.screen, -inner, inner)
    brow = (eaves[0] + 0.12, eaves[1] - 0.18, -inner + 0.14, inner - 0.14)
    parts = [
        shapes.extrusion(lower, (-half + 0.03, half - 0.03), ("car_side", "metal"), label, tint=colour),
        box((0.82 * body.length, 2 * half, 0.22), (0.0, 0.0, 0.62), "metal", label, tint=colour),  # flank
        frustum(foot, eaves, (body.waist, crown), GLAZED, label, tint=colour),
        frustum(eaves, brow, (crown, body.roof), "metal", label, tint=colour, tile="stretched"),
        *_wheels((-0.31 * body.length, 0.30 * body.length), half, body.tyre, label, wide=0.2, inset=0.09),
    ]
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


def _wheels(
    at: tuple[float, ...], half: float, radius: float, label: StreetClass, wide: float = 0.28, inset: float = 0.16
) -> list[Part]:
    wheel = cylinder(radius, wide, ("wheel", "rubber"), label, sides=14)
    return [wheel.moved((x, side * (half - inset), radius)) for x in at for side in (-1, 1)]


def van(rng: Random) -> Vehicle:
    """A delivery van or a camper."""
    length, half, roof = float(rng.uniform(4.9, 5.9)), 0.98, float(rng.uniform(1.95, 2.6))
    colour = paint(rng) if rng.random() < 0.5 else (0.92, 0.92, 0.9)
    label, end = StreetClass.OTHER_VEHICLE, length / 2
    sides = ("metal", "car_glass" if rng.random() < 0.4 else "metal", "metal")
    load, load_centre = (length - 1.3, 2 * half, roof - 1.0), (-0.65, 0.0, 0.5 + roof / 2)
    foot, eaves = (end - 1.3, end - 0.1, -half, half), (end - 1.3, end - 0.75, -0.92 * half, 0.92 * half)
    lower = ("metal", "car_side", "metal")
    parts = [
        box(load, load_centre, sides, label, tint=colour, tile="stretched"),
        box((length - 0.1, 2 * half, 0.76), (-0.05, 0.0, 0.62), lower, label, tint=colour),
        frustum(foot, eaves, (1.0, roof - 0.08), GLAZED, label, tint=colour),
        *_wheels((-0.3 * length, 0.31 * length), half, 0.34, label),
    ]
    for side in (-1, 1):
        parts.append(box((0.05, 0.2, 0.5), (-end - 0.01, side * (half - 0.14), 1.1), "cloth", label, tint=LAMP_RED))
        parts.append(box((0.05, 0.34, 0.16), (end - 0.09, side * (half - 0.26), 0.76), "cloth", label, tint=LIGHT))
    parts.append(box((0.1, 1.6 * half, 0.2), (end - 0.06, 0.0, 0.35), "rubber", label))
    return Vehicle(parts, length, 2 * half)


def truck(rng: Random, *, long: bool = False) -> Vehicle:
    """A lorry with a box body, or an articulated one."""
    body, half = float(rng.uniform(9.0, 12.5) if long else rng.uniform(4.4, 6.5)), 1.2
    high, label, colour = float(rng.uniform(3.1, 3.8)), StreetClass.TRUCK, paint(rng)
    length = body + 2.4
    end = length / 2
    cover = grey(1.1) if rng.random() < 0.5 else triple(rng.uniform(0.15, 0.9, 3))
    axles = (-end + 1.2, -end + 2.5, end - 1.3) if long else (-end + 1.8, end - 1.2)
    load, load_centre = (body, 2 * half, high - 1.05), (-end + body / 2, 0.0, 0.525 + high / 2)
    foot, eaves = (end - 2.2, end, -1.1, 1.1), (end - 2.2, end - 0.25, -1.05, 1.05)
    parts = [
        box(load, load_centre, "concrete", label, tint=cover),
        box((body, 1.3, 0.5), (-end + body / 2, 0.0, 0.82), "rubber", label),
        box((2.1, 2.2, 1.1), (end - 1.05, 0.0, 0.95), "metal", label, tint=colour),
        frustum(foot, eaves, (1.5, 2.8), GLAZED, label, tint=colour),
        *_wheels(axles, half, 0.48, label),
    ]
    lamps = [box((0.05, 0.3, 0.2), (-end - 0.01, y, 0.9), "cloth", label, tint=LAMP_RED) for y in (-0.9, 0.9)]
    return Vehicle([*parts, *lamps], length, 2 * half)


def bus(rng: Random) -> Vehicle:
    """A city bus."""
    length, half, label = float(rng.uniform(10.5, 12.2)), 1.25, StreetClass.OTHER_VEHICLE
    colour: Colour = (float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.1, 0.8)), float(rng.uniform(0.05, 0.6)))
    foot = (-length / 2, length / 2, -half, half)
    eaves = (-length / 2 + 0.1, length / 2 - 0.2, -half + 0.08, half - 0.08)
    parts = [
        box((length, 2 * half, 1.0), (0.0, 0.0, 0.8), "metal", label, tint=colour),
        frustum(foot, eaves, (1.3, 2.75), GLAZED, label, tint=colour),
        box((length - 0.5, 2 * half - 0.3, 0.25), (0.0, 0.0, 2.87), "metal", label, tint=grey(0.8)),
        *_wheels((-0.26 * length, 0.3 * length), half, 0.48, label),
    ]
    return Vehicle(parts, length, 2 * half)


def trailer(rng: Random) -> Vehicle:
    """A caravan or a small flat trailer."""
    label = StreetClass.OTHER_VEHICLE
    if rng.random() < 0.5:
        profile = np.array([(-2.2, 0.9), (-2.0, 0.5), (2.0, 0.5), (2.3, 1.2), (1.9, 2.5), (-1.9, 2.5)])
        body = shapes.extrusion(profile, (-1.1, 1.1), ("car_glass", "metal"), label, tint=(1.0, 1.0, 0.97))
        return Vehicle([body, *_wheels((-0.2,), 1.1, 0.3, label)], 4.6, 2.2)
    bed = box((2.6, 1.5, 0.5), (0.0, 0.0, 0.75), "planks", label, tint=grey(0.5))
    return Vehicle([bed, *_wheels((0.0,), 0.9, 0.28, label)], 3.0, 1.8)


def _tube(start: shapes.Place, end: shapes.Place, size: float, label: StreetClass) -> Part:
    """A square rod between two points of the plane y = const."""
    a, b = np.array(start), np.array(end)
    length = float(np.linalg.norm(b - a))
    pitch = -float(np.arctan2(b[2] - a[2], b[0] - a[0]))
    rod = box((length, size, size), (0.0, 0.0, 0.0), "metal", label, tint=(0.2, 0.2, 0.22))
    return rod.tilted(pitch=pitch).moved(triple((a + b) / 2))


def bicycle(rng: Random, label: StreetClass = StreetClass.BICYCLE) -> Vehicle:
    """Two thin wheels, a frame, a saddle and a handlebar."""
    rear, crank, head, seat = (-0.52, 0.0, 0.34), (-0.08, 0.0, 0.28), (0.36, 0.0, 0.86), (-0.2, 0.0, 0.84)
    parts = [cylinder(0.34, 0.04, ("spokes", "rubber"), label, sides=16).moved((x, 0.0, 0.34)) for x in (-0.52, 0.52)]
    for a, b in ((rear, crank), (crank, head), (seat, head), (seat, crank), (seat, rear), (head, (0.52, 0.0, 0.34))):
        parts.append(_tube(a, b, 0.045, label))
    parts.append(box((0.26, 0.15, 0.07), (-0.24, 0.0, 0.94), "rubber", label))
    parts.append(box((0.06, 0.56, 0.05), (0.32, 0.0, 1.0), "metal", label, tint=grey(0.15)))
    parts.append(_tube((0.36, 0.0, 0.8), (0.32, 0.0, 1.0), 0.04, label))
    if rng.random() < 0.4:
        parts.append(box((0.4, 0.3, 0.25), (-0.55, 0.0, 0.88), "planks", label))
    return Vehicle(parts, 1.75, 0.56)


def motorcycle(rng: Random, label: StreetClass = StreetClass.MOTORCYCLE) -> Vehicle:
    """A motorcycle or a scooter."""
    colour = paint(rng)
    parts = [cylinder(0.31, 0.13, ("wheel", "rubber"), label, sides=14).moved((x, 0.0, 0.31)) for x in (-0.7, 0.72)]
    parts += [
        box((0.7, 0.3, 0.42), (0.0, 0.0, 0.5), "metal", label, tint=(0.25, 0.25, 0.26)),
        ellipsoid((0.34, 0.17, 0.18), (0.18, 0.0, 0.86), "metal", label, tint=colour),
        box((0.75, 0.26, 0.12), (-0.45, 0.0, 0.82), "rubber", label),
        _tube((0.42, 0.0, 0.95), (0.72, 0.0, 0.31), 0.1, label),
        _tube((-0.1, 0.0, 0.5), (-0.7, 0.0, 0.31), 0.12, label),
        box((0.07, 0.7, 0.06), (0.38, 0.0, 1.05), "metal", label, tint=grey(0.12)),
        box((0.1, 0.2, 0.2), (0.52, 0.0, 0.88), "cloth", label, tint=LIGHT),
    ]
    return Vehicle(parts, 2.05, 0.7)


def cyclist(rng: Random) -> Vehicle:
    """A person on a bicycle."""
    label = StreetClass.BICYCLIST
    return Vehicle([*bicycle(rng, label).parts, *rider(rng, label, saddle=0.95)], 1.75, 0.56)


def motorcyclist(rng: Random) -> Vehicle:
    """A person on a motorcycle."""
    label = StreetClass.MOTORCYCLIST
    ridden = motorcycle(rng, label).parts
    return Vehicle([*ridden, *shapes.moved_all(rider(rng, label, saddle=0.85), (-0.1, 0.0, 0.0))], 2.05, 0.7)


def _clothes(rng: Random) -> tuple[Colour, Colour]:
    shade = float(rng.uniform(0.03, 0.5))
    spread = 0.9 if rng.random() < 0.3 else 0.2
    coat = shade * (1.0 + spread * rng.uniform(-1.0, 1.0, 3))
    dark = float(rng.uniform(0.03, 0.2))
    return triple(coat), (dark, dark, dark * float(rng.uniform(1.0, 2.0)))


def _upper_body(rng: Random, hips: float, tall: float, lean: float, label: StreetClass, coat: Colour) -> list[Part]:
    """Trunk and head above the hips, leaning forward by `lean` metres at the shoulders."""
    skin, hair = SKIN[int(rng.integers(len(SKIN)))], HAIR[int(rng.integers(len(HAIR)))]
    chest = hips + 0.28 * tall
    head = hips + 0.74 * tall
    return [
        ellipsoid((0.15, 0.22, 0.36), (0.45 * lean, 0.0, chest), "cloth", label, tint=coat, tile=0.8),
        ellipsoid((0.12, 0.24, 0.13), (lean, 0.0, chest + 0.2), "cloth", label, tint=coat, tile=0.8),
        ellipsoid((0.10, 0.085, 0.13), (1.25 * lean + 0.02, 0.0, head), "cloth", label, tint=skin),
        ellipsoid((0.10, 0.092, 0.10), (1.25 * lean - 0.02, 0.0, head + 0.05), "cloth", label, tint=hair),
    ]


def person(rng: Random) -> list[Part]:
    """A person standing or in mid-step, sometimes with a bag; sometimes a child."""
    tall = float(rng.uniform(0.9, 1.07)) * (0.68 if rng.random() < 0.12 else 1.0)
    coat, trousers = _clothes(rng)
    step = float(rng.uniform(0.0, 0.24))
    kind = StreetClass.PERSON
    parts = []
    for side in (-1, 1):
        x = side * step
        leg_low, leg_high = (x - 0.07, x + 0.11, side * 0.1 - 0.06, side * 0.1 + 0.06), (-0.09, 0.09, -0.16, 0.16)
        parts.append(frustum(leg_low, leg_high, (0.0, 0.88 * tall), "cloth", kind, tint=trousers, tile=(0.8, 0.8)))
        arm = ellipsoid((0.07, 0.06, 0.34 * tall), (-0.5 * x, side * 0.25, 1.13 * tall), "cloth", kind, tint=coat)
        parts.append(arm)
    parts += _upper_body(rng, 0.86 * tall, tall, 0.02, kind, coat)
    if rng.random() < 0.3:
        parts.append(box((0.3, 0.14, 0.36), (0.0, 0.34, 0.62 * tall), "cloth", kind, tint=(0.2, 0.12, 0.08)))
    return parts


def rider(rng: Random, label: StreetClass, saddle: float) -> list[Part]:
    """A person sitting on a two-wheeler, hands on the handlebar at x = 0.3."""
    coat, trousers = _clothes(rng)
    parts = _upper_body(rng, saddle, 0.95, 0.22, label, coat)
    for side in (-1, 1):
        y = side * 0.12
        thigh_low, thigh_high = (0.02, 0.2, y - 0.06, y + 0.06), (-0.3, -0.05, y - 0.08, y + 0.08)
        parts.append(frustum(thigh_low, thigh_high, (saddle - 0.42, saddle + 0.08), "cloth", label, tint=trousers))
        parts.append(box((0.16, 0.11, 0.5), (0.08, y, saddle - 0.6), "cloth", label, tint=trousers))
        hand, shoulder = side * 0.2, side * 0.22
        arm_low = (0.22, 0.34, hand - 0.05, hand + 0.05)
        arm_high = (0.08, 0.22, shoulder - 0.06, shoulder + 0.06)
        parts.append(frustum(arm_low, arm_high, (1.0, saddle + 0.5), "cloth", label, tint=coat))
    return parts
