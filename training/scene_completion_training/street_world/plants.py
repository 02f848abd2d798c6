"""Trees, bushes and hedges: closed cores with leaves around them, so that their outline is as ragged as a real one."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.classes import StreetClass
from scene_completion_training.street_world.parts import WHITE, Part, box, cylinder, ellipsoid, frustum, triple, upright

Floats = NDArray[np.float64]

LEAVES = ("leaves", "leaves_dark", "leaves_yellow")


def tree(rng: np.random.Generator, height: float) -> list[Part]:
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


def conifer(rng: np.random.Generator, height: float) -> list[Part]:
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


def bush(rng: np.random.Generator, size: float) -> list[Part]:
    """A few leafy clumps on the ground."""
    leaves = str(rng.choice(LEAVES))
    parts: list[Part] = []
    for _ in range(3):
        middle = np.array([*rng.uniform(-0.4, 0.4, 2), 0.4]) * size
        parts += _clump(rng, size * rng.uniform(0.4, 0.65, 3), middle, leaves, 220)
    return parts


def hedge(rng: np.random.Generator, length: float, height: float, texture: str) -> list[Part]:
    """A hedge along x, starting at the origin: a core with twigs sticking out of it."""
    half = float(rng.uniform(0.28, 0.42))
    core = (0.0, length, -half, half), (0.03, length - 0.03, -0.85 * half, 0.85 * half)
    parts = [frustum(*core, (-0.3, height), texture, StreetClass.VEGETATION)]
    count = round(70 * length * (height + 0.6))
    points = rng.uniform((0.0, -1.0, 0.0), (length, 1.0, 1.0), (count, 3))
    face = rng.integers(0, 4, count)  # two sides, twice the top
    points[:, 1] = np.where(face == 0, -1.0, np.where(face == 1, 1.0, points[:, 1])) * half
    points[:, 2] = np.where(face > 1, 1.0 + 0.03 * rng.standard_normal(count), points[:, 2]) * height
    outward = np.stack(
        [np.zeros(count), np.where(face < 2, np.sign(points[:, 1]), 0.0), 0.4 + 0.6 * (face > 1)], axis=-1
    )
    parts.append(_leaves(rng, points, outward, 0.1, texture))
    return parts


def stump(rng: np.random.Generator) -> list[Part]:
    """Logs piled beside a road."""
    parts = []
    for row, count in enumerate((4, 3, 2)):
        for k in range(count):
            length = float(rng.uniform(2.6, 3.2))
            log = cylinder(0.2, length, ("planks", "bark"), StreetClass.TRUNK, tile=(1.0, 1.0), sides=8)
            parts.append(log.moved(((k - count / 2) * 0.41, 0.0, 0.2 + 0.36 * row), 0.0))
    return parts


def crop(length: float, height: float) -> list[Part]:
    """A stand of maize along x, starting at the origin, four metres deep to its left."""
    size = (length, 4.0, height + 0.6)
    return [box(size, (length / 2, 2.0, height / 2 - 0.3), "leaves", StreetClass.VEGETATION)]


def _stem(radius: float, length: float) -> Part:
    stem = cylinder(radius, length, ("bark", "bark"), StreetClass.TRUNK, tile=(1.0, 1.0), sides=9)
    return upright(stem, (0.0, 0.0, -0.15), length)


def _directions(rng: np.random.Generator, count: int) -> Floats:
    """Unit vectors spread evenly (golden angle), turned at random, [count, 3]."""
    azimuth = np.arange(count) * 2.39996 + rng.uniform(0, 6.28)
    rise = 1.0 - 2.0 * (np.arange(count) + 0.5) / count
    ring = np.sqrt(1.0 - rise**2)
    return np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), rise], axis=-1)


def _clump(rng: np.random.Generator, radii: Floats, centre: Floats, texture: str, count: int) -> list[Part]:
    """A closed core and leaves that stand out of it."""
    shade = float(rng.uniform(0.7, 1.15))
    tint = (shade * float(rng.uniform(0.92, 1.08)), shade, shade * float(rng.uniform(0.9, 1.05)))
    core = ellipsoid(triple(0.85 * radii), triple(centre), texture, StreetClass.VEGETATION, tint=tint, tile=1.6)
    outward = _directions(rng, count) + 0.25 * rng.standard_normal((count, 3))
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    points = centre + radii * outward * rng.uniform(0.72, 1.2, (count, 1))
    return [core, replace(_leaves(rng, points, outward, 0.05 + 0.08 * float(radii.mean()), texture), tint=tint)]


def _leaves(rng: np.random.Generator, points: Floats, outward: Floats, size: float, texture: str) -> Part:
    """Loose triangles around points [N, 3], shaded as if they faced outwards; no inside."""
    count = len(points)
    corners = points[:, None] + size * rng.uniform(-1.0, 1.0, (count, 3, 3))
    normal = outward / np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-9)
    normal = normal + 0.35 * rng.standard_normal((count, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    start = rng.uniform(0.0, 1.0, (count, 1, 2))
    uv = start + np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]) * size * 1.3 / 1.6
    return Part(
        corners=corners,
        uv=uv,
        normals=np.repeat(normal[:, None], 3, axis=1),
        texture=np.zeros(count, np.int64),
        texture_names=(texture,),
        tint=WHITE,
        label=StreetClass.VEGETATION,
        solid=False,
    )
