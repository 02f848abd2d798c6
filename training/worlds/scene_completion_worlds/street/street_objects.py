"""Objects along a road, each around its own origin on the ground: houses, lamps, signs, fences; trees, bushes, hedges.

Plants have closed cores with leaves around them, so that their outline is as ragged as a real one.
"""

from dataclasses import replace

import numpy as np

from scene_completion_training.arrays import Doubles, Random
from scene_completion_worlds.street import parts as shapes
from scene_completion_worlds.street.parts import Colour, Part, box, frustum, grey, post, triple
from scene_completion_worlds.street.street_line import StreetClass
from scene_completion_worlds.street.textures import BAYS, FACADE_COUNT, FLOORS, SIGN_COUNT

POLE, FENCE, SIGN = StreetClass.POLE, StreetClass.FENCE, StreetClass.TRAFFIC_SIGN
BUILDING = StreetClass.BUILDING
_SUNK = (0.0, 0.0, -0.15)  # feet of posts and stems
FOUNDATION_M = 2.5  # the body reaches below the ground, so that no gap opens on a slope
ROOF_TINTS: tuple[Colour, ...] = ((0.55, 0.22, 0.14), (0.28, 0.26, 0.26), (0.42, 0.26, 0.18), (0.20, 0.22, 0.25))
LEAVES = ("leaves", "leaves_dark", "leaves_yellow")


def fence(length: float, kind: str, height: float) -> list[Part]:
    """A fence of "planks", "rails", "mesh" or "bars", or a "wall", along x, starting at the origin."""
    along = (length / 2, 0.0)
    if kind == "wall":
        return [
            box((length, 0.25, height + 0.3), (*along, height / 2 - 0.15), "bricks", FENCE),
            box((length, 0.32, 0.08), (*along, height), "concrete", FENCE),
        ]
    if kind == "planks":
        high = height + 0.2
        return [box((length, 0.06, high), (*along, height / 2 - 0.1), "planks", FENCE, tile=(2.0, high))]
    post = box((0.09, 0.09, height + 0.4), (0.045, 0.0, height / 2 - 0.2), "planks", FENCE)
    if kind == "rails":
        return [post, *(box((length, 0.05, 0.12), (*along, z * height), "planks", FENCE) for z in (0.35, 0.85))]
    gap, width = (0.12, 0.025) if kind == "bars" else (0.25, 0.012)
    dark = (0.12, 0.14, 0.13)
    places = np.arange(gap, length, gap).tolist()
    uprights = [box((width, width, height), (x, 0.0, height / 2), "metal", FENCE, tint=dark) for x in places]
    rails = [box((length, 0.03, 0.03), (*along, z), "metal", FENCE, tint=dark) for z in (0.1, 0.5 * height, height)]
    return [post, *uprights, *rails]


def guard_rail(length: float) -> list[Part]:
    """A steel guard rail along x, starting at the origin."""
    steel = (0.62, 0.64, 0.66)
    return [
        box((0.1, 0.1, 1.0), (0.05, 0.0, 0.2), "metal", FENCE, tint=grey(0.4)),
        box((length, 0.06, 0.14), (length / 2, 0.08, 0.66), "metal", FENCE, tint=steel),
        box((length, 0.1, 0.06), (length / 2, 0.06, 0.55), "metal", FENCE, tint=(0.4, 0.41, 0.42)),
        box((length, 0.06, 0.12), (length / 2, 0.08, 0.46), "metal", FENCE, tint=steel),
    ]


def _pole(radius: float, length: float, texture: str = "metal", tint: Colour = shapes.WHITE) -> Part:
    return post(radius, length, _SUNK, POLE, texture, tint, (1.0, 1.0), sides=10)


def street_lamp(rng: Random) -> list[Part]:
    """A lamp post, its arm along +x."""
    shade = float(rng.uniform(0.15, 0.5))
    tint = (shade, shade, shade * 1.05)
    height, reach = float(rng.uniform(4.5, 9.0)), float(rng.uniform(0.6, 2.0))
    if height < 5.2:  # a lantern on top
        foot, top = (-0.14, 0.14, -0.14, 0.14), (-0.24, 0.24, -0.24, 0.24)
        return [_pole(0.07, height, tint=tint), frustum(foot, top, (height - 0.2, height + 0.3), "metal", POLE)]
    return [
        _pole(0.085, height, tint=tint),
        _pole(0.14, 1.1, tint=tint),
        box((reach, 0.08, 0.08), (reach / 2, 0.0, height - 0.2), "metal", POLE, tint=tint),
        box((0.7, 0.28, 0.12), (reach, 0.0, height - 0.2), "metal", POLE, tint=grey(0.5)),
    ]


def power_pole() -> list[Part]:
    """A wooden pole with a cross-arm."""
    return [_pole(0.13, 8.6, "bark"), box((0.12, 1.8, 0.12), (0.0, 0.0, 7.9), "bark", POLE, tile=(1.0, 1.0))]


def traffic_sign(rng: Random) -> list[Part]:
    """A sign on a post, its face towards -x (the traffic that drives along +x)."""
    kind = f"sign_{int(rng.integers(SIGN_COUNT))}"
    height, size = float(rng.uniform(2.1, 2.7)), float(rng.uniform(0.55, 0.8))
    plate = box((0.03, size, size), (-0.06, 0.0, height), (kind, "metal", "metal"), SIGN, tile="stretched")
    if kind == "sign_0":
        plate = plate.moved((0.06, 0.0, -height)).tilted(roll=np.pi / 4).moved((-0.06, 0.0, height))
    parts = [_pole(0.04, height + 0.3, tint=grey(0.6)), plate]
    if rng.random() < 0.25:
        parts.append(box((0.03, size, 0.25), (-0.06, 0.0, height - 0.75 * size), "concrete", SIGN))
    return parts


def direction_board(rng: Random) -> list[Part]:
    """A large board on two posts, its face towards -x."""
    width, high = float(rng.uniform(1.8, 3.4)), float(rng.uniform(1.0, 1.8))
    foot = float(rng.uniform(1.0, 2.0))
    face = f"board_{int(rng.integers(3))}"
    posts = [_pole(0.05, foot + high).moved((0.0, side * 0.35 * width, 0.0)) for side in (-1, 1)]
    plate = box((0.05, width, high), (-0.08, 0.0, foot + high / 2), (face, "metal", "metal"), SIGN, tile="stretched")
    return [*posts, plate]


def traffic_light(rng: Random) -> list[Part]:
    """Lights on a post, facing -x; sometimes a second set on an arm over the road to the left."""
    size = (0.2, 0.28, 0.85)
    parts = [_pole(0.07, 3.4, tint=grey(0.3)), box(size, (-0.12, 0.0, 2.9), "metal", SIGN, tint=grey(0.06))]
    lit = int(rng.integers(3))
    for k, colour in enumerate(((0.9, 0.05, 0.02), (0.9, 0.5, 0.02), (0.05, 0.8, 0.3))):
        glow = triple(np.array(colour) * (2.0 if k == lit else 0.15))
        parts.append(box((0.06, 0.17, 0.17), (-0.23, 0.0, 3.17 - 0.27 * k), "cloth", SIGN, tint=glow))
    return parts


def bollard() -> list[Part]:
    """A short post."""
    return [_pole(0.07, 1.1, tint=(0.15, 0.15, 0.16))]


def delineator() -> list[Part]:
    """The white post of a country road."""
    band = box((0.13, 0.13, 0.14), (0.0, 0.0, 0.8), "rubber", POLE)
    return [box((0.11, 0.11, 1.15), (0.0, 0.0, 0.42), "cloth", POLE, tint=grey(1.1)), band]


def shelter() -> list[Part]:
    """A bus shelter, open towards -y."""
    house, dark = StreetClass.BUILDING, (0.15, 0.15, 0.16)
    return [
        box((3.6, 1.6, 0.12), (0.0, 0.0, 2.4), "metal", house, tint=dark),
        box((3.6, 0.05, 2.2), (0.0, 0.75, 1.2), ("metal", "car_glass", "metal"), house, tint=dark),
        *(box((0.05, 1.3, 2.2), (x, 0.1, 1.2), "metal", house, tint=dark) for x in (-1.75, 1.75)),
        box((2.4, 0.4, 0.1), (0.0, 0.45, 0.5), "planks", house),
    ]


def terrace(rng: Random) -> list[Part]:
    """Parasols and tables before a cafe, or a market stall."""
    tint, kind = triple(rng.uniform(0.2, 0.95, 3)), StreetClass.BUILDING
    roof = frustum((-1.3, 1.3, -0.9, 0.9), (-0.1, 0.1, -0.1, 0.1), (2.15, 2.7), "cloth", kind, tint=tint)
    return [_pole(0.04, 2.4), roof, box((0.8, 0.7, 0.74), (0.6, 0.1, 0.37), "planks", kind)]


def house(rng: Random, width: float, depth: float, floors: int, *, shops: bool, arcade_m: float = 0.0) -> list[Part]:
    """A house along x (0 ... width) whose front lies in the plane y = 0 and faces -y.

    `floors`: one to `FLOORS`; `shops`: whether there may be shops on the ground floor; `arcade_m`: how far an arcade
    stands out of the front; 0 for none.
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


def hall(rng: Random, width: float, depth: float) -> list[Part]:
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


def garage(rng: Random) -> list[Part]:
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


def _gable(rng: Random, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    rise = depth * float(rng.uniform(0.28, 0.48))
    over = 0.35
    if rng.random() < 0.65:  # ridge along the street: a prism along x, drawn along y and turned
        profile = np.array([(-depth / 2 - over, 0.0), (depth / 2 + over, 0.0), (0.0, rise)])
        roof = shapes.extrusion(profile, (0.0, width), ("concrete", "roof"), BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, 0.0), yaw=-np.pi / 2).moved((0.0, depth / 2, height))
    else:
        rise = min(rise, width * 0.45)
        profile = np.array([(-over, 0.0), (width + over, 0.0), (width / 2, rise)])
        roof = shapes.extrusion(profile, (-0.2, depth), ("planks", "roof"), BUILDING, tint=tint, tile=(4.0, 4.0))
        roof = roof.moved((0.0, 0.0, height))
    stack = (float(rng.uniform(0.15, 0.85)) * width, depth * float(rng.uniform(0.55, 0.7)), height + rise * 0.8)
    return [roof, box((0.6, 0.6, 1.8), stack, "bricks", BUILDING)]


def _flat(rng: Random, width: float, depth: float, height: float, tint: Colour) -> list[Part]:
    rim = (width / 2, depth / 2, height + 0.25)
    parapet = box((width + 0.3, depth + 0.3, 0.5), rim, "concrete", BUILDING, tint=tint)
    hut = (width * float(rng.uniform(0.3, 0.7)), depth * 0.6, height + 1.2)
    return [parapet, box((2.6, 2.2, 1.8), hut, "concrete", BUILDING)]


def _front_details(rng: Random, bay: float, bays: int, floors: int, floor_height: float, tint: Colour) -> list[Part]:
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


def tree(rng: Random, height: float) -> list[Part]:
    """A broad-leaved tree: trunk, limbs, and a crown of a few clumps in a coat of leaves."""
    leaves = str(rng.choice(LEAVES, p=[0.5, 0.3, 0.2]))
    clear = max(2.2, float(rng.uniform(0.22, 0.4)) * height)
    radius = 0.017 * height + 0.03
    crown = np.array([*(rng.uniform(0.2, 0.36) * np.ones(2)), (1.0 - clear / height) / 2]) * height
    centre = np.array([0.0, 0.0, clear + crown[2]])
    lean = rng.normal(0.0, 0.03, 2)
    parts = [_stem(radius, clear + 0.5 * crown[2]).tilted(float(lean[0]), float(lean[1]))]
    for _ in range(int(rng.integers(2, 5))):
        limb = _stem(0.4 * radius, 0.8 * crown[2] + 0.5).tilted(float(rng.uniform(0.3, 0.7)))
        parts.append(limb.moved((0.0, 0.0, clear - 0.3), float(rng.uniform(0, 6.28))))
    for direction in _directions(rng, int(rng.integers(7, 13))) + 0.25 * rng.standard_normal(3):
        middle = centre + crown * direction * rng.uniform(0.45, 0.75)
        parts += _clump(rng, crown * rng.uniform(0.34, 0.55, 3), middle, leaves, int(rng.integers(170, 230)))
    parts += _clump(rng, 0.62 * crown, centre, leaves, 20)
    return parts


def conifer(rng: Random, height: float) -> list[Part]:
    """A spruce: storeys of branches that get smaller upwards."""
    radius = float(rng.uniform(0.16, 0.26)) * height
    parts = [_stem(0.012 * height + 0.05, 0.9 * height)]
    storeys = int(rng.integers(6, 9))
    for storey in range(storeys):
        share = storey / storeys
        size = radius * (1.0 - 0.92 * share) * float(rng.uniform(0.85, 1.1))
        low = 0.1 * height + 0.86 * height * share
        rise = 0.2 * height
        cone = (-size, size, -size, size), (-0.25 * size, 0.25 * size, -0.25 * size, 0.25 * size)
        body = frustum(*cone, (low, low + rise), "leaves_dark", StreetClass.VEGETATION)
        parts.append(body.moved((0.0, 0.0, 0.0), float(rng.uniform(0, 6.28))))
        ring = rng.uniform(0.0, 2 * np.pi, 40)
        out = rng.uniform(0.5, 1.3, 40) * size
        lift = rise * np.clip(1.3 - out / size, 0.0, 1.0)
        points = np.stack([out * np.cos(ring), out * np.sin(ring), low + lift], axis=-1)
        parts.append(_leaves(rng, points, points - (0, 0, low - size), 0.09 * radius + 0.12, "leaves_dark"))
    return parts


def bush(rng: Random, size: float) -> list[Part]:
    """A few leafy clumps on the ground."""
    leaves = str(rng.choice(LEAVES))
    parts: list[Part] = []
    for _ in range(3):
        middle = np.array([*rng.uniform(-0.4, 0.4, 2), 0.4]) * size
        parts += _clump(rng, size * rng.uniform(0.4, 0.65, 3), middle, leaves, 220)
    return parts


def hedge(rng: Random, length: float, height: float, texture: str) -> list[Part]:
    """A hedge along x, starting at the origin: a core with twigs sticking out of it."""
    half = float(rng.uniform(0.28, 0.42))
    core = (0.0, length, -half, half), (0.03, length - 0.03, -0.85 * half, 0.85 * half)
    parts = [frustum(*core, (-0.3, height), texture, StreetClass.VEGETATION)]
    count = round(70 * length * (height + 0.6))
    points = rng.uniform((0.0, -1.0, 0.0), (length, 1.0, 1.0), (count, 3))
    face = rng.integers(0, 4, count)  # two sides, twice the top
    points[:, 1] = np.where(face == 0, -1.0, np.where(face == 1, 1.0, points[:, 1])) * half
    points[:, 2] = np.where(face > 1, 1.0 + 0.03 * rng.standard_normal(count), points[:, 2]) * height
    aside = np.where(face < 2, np.sign(points[:, 1]), 0.0)
    outward = np.stack([np.zeros(count), aside, 0.4 + 0.6 * (face > 1)], axis=-1)
    parts.append(_leaves(rng, points, outward, 0.1, texture))
    return parts


def stump(rng: Random) -> list[Part]:
    """Logs piled at a road."""
    parts = []
    for row, count in enumerate((4, 3, 2)):
        for k in range(count):
            length = float(rng.uniform(2.6, 3.2))
            log = shapes.cylinder(0.2, length, ("planks", "bark"), StreetClass.TRUNK, tile=(1.0, 1.0), sides=8)
            parts.append(log.moved(((k - count / 2) * 0.41, 0.0, 0.2 + 0.36 * row), 0.0))
    return parts


def crop(length: float, height: float) -> list[Part]:
    """A stand of maize along x, starting at the origin, four metres deep to its left."""
    size = (length, 4.0, height + 0.6)
    return [box(size, (length / 2, 2.0, height / 2 - 0.3), "leaves", StreetClass.VEGETATION)]


def _stem(radius: float, length: float) -> Part:
    return post(radius, length, _SUNK, StreetClass.TRUNK, "bark", shapes.WHITE, (1.0, 1.0), sides=9)


def _directions(rng: Random, count: int) -> Doubles:
    """Unit vectors spread evenly (golden angle), turned at random, [count, 3]."""
    azimuth = np.arange(count) * 2.39996 + rng.uniform(0, 6.28)
    rise = 1.0 - 2.0 * (np.arange(count) + 0.5) / count
    ring = np.sqrt(1.0 - rise**2)
    return np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), rise], axis=-1)


def _clump(rng: Random, radii: Doubles, centre: Doubles, texture: str, count: int) -> list[Part]:
    """A closed core and leaves that stand out of it."""
    shade = float(rng.uniform(0.7, 1.15))
    tint = (shade * float(rng.uniform(0.92, 1.08)), shade, shade * float(rng.uniform(0.9, 1.05)))
    core = shapes.ellipsoid(triple(0.85 * radii), triple(centre), texture, StreetClass.VEGETATION, tint=tint, tile=1.6)
    outward = _directions(rng, count) + 0.25 * rng.standard_normal((count, 3))
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    points = centre + radii * outward * rng.uniform(0.72, 1.2, (count, 1))
    return [core, replace(_leaves(rng, points, outward, 0.05 + 0.08 * float(radii.mean()), texture), tint=tint)]


def _leaves(rng: Random, points: Doubles, outward: Doubles, size: float, texture: str) -> Part:
    """Loose triangles around points [N, 3], shaded as if they faced outwards; no inside."""
    count = len(points)
    corners = points[:, None] + size * rng.uniform(-1.0, 1.0, (count, 3, 3))
    normal = outward / np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-9)
    normal = normal + 0.35 * rng.standard_normal((count, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    start = rng.uniform(0.0, 1.0, (count, 1, 2))
    uv = start + np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]) * size * 1.3 / 1.6
    normals, of = np.repeat(normal[:, None], 3, axis=1), np.zeros(count, np.int64)
    return Part(corners, uv, normals, of, (texture,), shapes.WHITE, StreetClass.VEGETATION, solid=False)
