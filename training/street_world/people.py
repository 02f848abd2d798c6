"""People, standing, walking and riding, around their own origin on the ground, facing +x."""

from __future__ import annotations

import numpy as np

from scene_completion_training.street_world.classes import StreetClass
from scene_completion_training.street_world.parts import Colour, Part, box, ellipsoid, frustum

SKIN: tuple[Colour, ...] = ((0.55, 0.36, 0.26), (0.42, 0.26, 0.18), (0.62, 0.44, 0.34), (0.16, 0.09, 0.06))
HAIR: tuple[Colour, ...] = ((0.10, 0.07, 0.05), (0.30, 0.20, 0.10), (0.45, 0.43, 0.40), (0.02, 0.02, 0.02))


def _clothes(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Coat and trousers: mostly dull, sometimes bright."""
    grey = float(rng.uniform(0.03, 0.5))
    spread = 0.9 if rng.random() < 0.3 else 0.2
    coat = grey * (1.0 + spread * rng.uniform(-1.0, 1.0, 3))
    dark = float(rng.uniform(0.03, 0.2))
    return (float(coat[0]), float(coat[1]), float(coat[2])), (dark, dark, dark * float(rng.uniform(1.0, 2.0)))


def _upper_body(
    rng: np.random.Generator, hips: float, tall: float, lean: float, label: StreetClass, coat: Colour
) -> list[Part]:
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


def person(rng: np.random.Generator) -> list[Part]:
    """Somebody standing or in mid-step, sometimes with a bag; sometimes a child."""
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
        bag = box((0.3, 0.14, 0.36), (0.0, 0.34, 0.62 * tall), "cloth", kind, tint=(0.2, 0.12, 0.08))
        parts.append(bag)
    return parts


def rider(rng: np.random.Generator, label: StreetClass, saddle: float) -> list[Part]:
    """Somebody sitting on a two-wheeler, hands on the handlebar at x = 0.3."""
    coat, trousers = _clothes(rng)
    parts = _upper_body(rng, saddle, 0.95, 0.22, label, coat)
    for side in (-1, 1):
        y = side * 0.12
        thigh_low, thigh_high = (0.02, 0.2, y - 0.06, y + 0.06), (-0.3, -0.05, y - 0.08, y + 0.08)
        parts.append(frustum(thigh_low, thigh_high, (saddle - 0.42, saddle + 0.08), "cloth", label, tint=trousers))
        parts.append(box((0.16, 0.11, 0.5), (0.08, y, saddle - 0.6), "cloth", label, tint=trousers))
        arm_low, arm_high = (
            (0.22, 0.34, side * 0.2 - 0.05, side * 0.2 + 0.05),
            (0.08, 0.22, side * 0.22 - 0.06, side * 0.22 + 0.06),
        )
        parts.append(frustum(arm_low, arm_high, (1.0, saddle + 0.5), "cloth", label, tint=coat))
    return parts
