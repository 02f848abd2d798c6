"""Layout of a town from its seed: what stands where along the street."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.street_world import buildings, objects
from training.street_world.classes import StreetClass
from training.street_world.facade_textures import FLOORS, made_textures
from training.street_world.ground import (
    FAR_EDGE,
    KERB_EDGE,
    KERB_M,
    LANE_M,
    PARKING_M,
    SIDE_STREET_M,
    SIDEWALK_M,
    WALK_EDGE,
    SideStreet,
    ground_height,
    make_ground,
)
from training.street_world.parts import Part, ellipsoid, moved_all
from training.street_world.street_line import StreetLine, make_street_line
from training.street_world.texture_atlas import TextureAtlas
from training.street_world.textures import ground_textures

BEHIND_M, AHEAD_M = 35.0, 140.0  # town beyond both ends of the drive
DRIVE_OFFSET = -LANE_M / 2  # the rig keeps to the right lane


@dataclass(frozen=True, eq=False)
class Daylight:
    """Sun and sky of a town, linear colours.

    Args:
        sun_direction: Towards the sun, world frame, unit length.
        cloudiness: 0 clear ... 1 overcast; softens the sun.
        haze_m: Distance over which the air takes 63 % of a colour.
    """

    sun_direction: NDArray[np.float64]
    sun_colour: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    cloudiness: float
    haze_m: float
    cloud_seed: int


@dataclass(frozen=True, eq=False)
class Town:
    """Everything a renderer and a ground truth need to know, from one seed.

    Args:
        drive_length: Metres of the street, from s = 0, that stay clear for the rig's lane.
    """

    seed: int
    drive_length: float
    line: StreetLine
    parts: list[Part]
    atlas: TextureAtlas
    daylight: Daylight


@dataclass
class _Layout:
    """What is being placed, and which spots of the sidewalk are taken."""

    rng: np.random.Generator
    line: StreetLine
    side_streets: list[SideStreet]
    parts: list[Part] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)  # s, d, radius

    def crosses_side_street(self, s: float, margin: float) -> bool:
        return any(street.covers(s, margin) for street in self.side_streets)

    def claim(self, s: float, d: float, radius: float) -> bool:
        """Take a round spot if nothing else wants it."""
        if any((s - a) ** 2 + (d - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((s, d, radius))
        return True

    def place(self, things: list[Part], s: float, d: float, turn: float = 0.0) -> None:
        """Stand an object at street coordinates, turned against the street's direction."""
        x, y = self.line.point(s, d)
        z = ground_height(s, d, self.side_streets)
        self.parts += moved_all(things, (float(x), float(y), z), float(self.line.heading_at(s)) + turn)


def make_town(seed: int, drive_length: float = 120.0) -> Town:
    """Lay out the town of a seed; the same arguments always give the same town.

    Args:
        drive_length: Metres the rig will drive; houses go on well beyond.
    """
    rng = np.random.default_rng([seed, 1])
    line = make_street_line(rng, -BEHIND_M, drive_length + AHEAD_M)
    atlas = TextureAtlas(ground_textures(rng) | made_textures(rng))
    layout = _Layout(rng, line, _draw_side_streets(rng, line))
    for side in (1, -1):
        _houses(layout, side)
        _parked_cars(layout, side)
        _sidewalk_things(layout, side)
    _oncoming(layout, drive_length)
    _horizon(layout)
    parts = make_ground(line, layout.side_streets, atlas) + layout.parts
    return Town(seed, drive_length, line, parts, atlas, _draw_daylight(rng))


def _draw_side_streets(rng: np.random.Generator, line: StreetLine) -> list[SideStreet]:
    streets = []
    s = float(rng.uniform(18.0, 45.0))
    while s < line.end - 10.0:
        streets.append(SideStreet(s))
        s += float(rng.uniform(50.0, 90.0))
    return streets


def _draw_daylight(rng: np.random.Generator) -> Daylight:
    elevation, azimuth = rng.uniform(0.55, 1.05), rng.uniform(0.0, 2.0 * np.pi)
    cloudiness = float(rng.uniform(0.0, 0.75))
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    warm = np.array([1.0, 0.95, 0.86])
    blue, white = np.array([0.20, 0.38, 0.75]), np.array([0.74, 0.77, 0.80])
    return Daylight(
        sun_direction=direction,
        sun_colour=warm * (3.0 - 2.0 * cloudiness),
        zenith=blue * (1 - cloudiness) + 0.75 * white * cloudiness,
        horizon=np.array([0.72, 0.80, 0.90]) * (1 - cloudiness) + white * cloudiness,
        cloudiness=cloudiness,
        haze_m=float(rng.uniform(600.0, 1600.0)),
        cloud_seed=int(rng.integers(2**31)),
    )


def _houses(layout: _Layout, side: int) -> None:
    rng, line = layout.rng, layout.line
    s = line.start + float(rng.uniform(0.0, 5.0))
    while s < line.end - 20.0:
        width, depth = float(rng.uniform(8.0, 17.0)), float(rng.uniform(9.0, 12.0))
        blocking = [street for street in layout.side_streets if _overlaps(street, s, s + width)]
        if blocking:
            s = blocking[0].s + SIDE_STREET_M / 2 + SIDEWALK_M + 0.4
            continue
        setback = float(rng.choice([0.2, 2.5, 5.0], p=[0.4, 0.35, 0.25]) + rng.uniform(0.0, 1.0))
        if rng.random() < 0.12:
            _garden(layout, side, s, width)
        else:
            floors = int(rng.integers(1 if setback > 2 else 2, FLOORS + 1))
            middle = s + width / 2
            heading = float(line.heading_at(middle))
            corner = line.point(middle, side * (WALK_EDGE + setback))
            back = width / 2 * side  # the house's own x runs along the street on the left, against it on the right
            x, y = corner - back * np.array([np.cos(heading), np.sin(heading)])
            body = buildings.house(rng, width, depth, floors)
            layout.parts += moved_all(body, (float(x), float(y), KERB_M), heading + (0.0 if side > 0 else np.pi))
            if setback > 2.0:
                _front_garden(layout, side, s, width, setback)
        gap = float(rng.choice([0.05, 2.0, 4.5], p=[0.45, 0.3, 0.25]) + rng.uniform(0.0, 1.5) * (setback > 2.0))
        if gap > 1.5:
            _gap(layout, side, s + width, gap, setback)
        s += width + gap


def _overlaps(street: SideStreet, start: float, end: float) -> bool:
    half = SIDE_STREET_M / 2 + SIDEWALK_M
    return start < street.s + half and end > street.s - half


def _front_garden(layout: _Layout, side: int, s: float, width: float, setback: float) -> None:
    rng = layout.rng
    border = rng.random()
    gate = 1.6
    for start, length in ((s, width * 0.6 - gate / 2), (s + width * 0.6 + gate / 2, width * 0.4 - gate / 2)):
        if border < 0.4:
            things = objects.hedge(length, float(rng.uniform(0.9, 1.7)), rng.random() < 0.5)
        elif border < 0.65:
            things = objects.fence(length)
        elif border < 0.85:
            things = objects.low_wall(length)
        else:
            return
        layout.place(things, start, side * (WALK_EDGE + 0.4))
    for _ in range(int(rng.integers(0, 3))):
        spot = s + float(rng.uniform(0.1, 0.9)) * width
        d = side * (WALK_EDGE + float(rng.uniform(1.4, max(1.5, setback - 0.6))))
        layout.place(objects.bush(rng, float(rng.uniform(0.7, 1.2))), spot, d)


def _gap(layout: _Layout, side: int, s: float, gap: float, setback: float) -> None:
    rng = layout.rng
    kind = rng.random()
    d = side * (WALK_EDGE + setback + 0.5)
    if kind < 0.35:
        layout.place(objects.fence(gap - 0.1), s + 0.05, d)
    elif kind < 0.6:
        layout.place(objects.hedge(gap - 0.1, float(rng.uniform(1.2, 2.2)), True), s + 0.05, d)
    elif gap > 3.0:
        layout.place(objects.tree(rng, float(rng.uniform(5.0, 7.0))), s + gap / 2, d + side * 3.0)


def _garden(layout: _Layout, side: int, s: float, width: float) -> None:
    """An empty lot: lawn, trees and bushes behind a hedge or a fence."""
    rng = layout.rng
    things = objects.hedge(width, 1.3, rng.random() < 0.5) if rng.random() < 0.5 else objects.fence(width)
    layout.place(things, s, side * (WALK_EDGE + 0.5))
    for _ in range(int(rng.integers(2, 5))):
        spot, d = s + float(rng.uniform(0.1, 0.9)) * width, side * (WALK_EDGE + float(rng.uniform(4.0, 16.0)))
        if layout.claim(spot, d, 2.0):
            layout.place(objects.tree(rng, float(rng.uniform(5.5, 10.0))), spot, d, float(rng.uniform(0, 6.28)))
    for _ in range(4):
        spot, d = s + float(rng.uniform(0.1, 0.9)) * width, side * (WALK_EDGE + float(rng.uniform(1.5, 14.0)))
        layout.place(objects.bush(rng, float(rng.uniform(0.8, 1.6))), spot, d)


def _parked_cars(layout: _Layout, side: int) -> None:
    """Cars along the kerb; behind them the sidewalk is free, which is what completion has to find out."""
    rng, line = layout.rng, layout.line
    density = float(rng.uniform(0.4, 0.75))
    s = line.start + 4.0
    while s < line.end - 6.0:
        vehicle, length = objects.truck(rng) if rng.random() < 0.04 else objects.car(rng)
        middle = s + length / 2
        if rng.random() < density and not layout.crosses_side_street(middle, length / 2 + 3.5):
            turn = (0.0 if side < 0 else np.pi) + float(rng.normal(0.0, 0.015))
            d = side * (LANE_M + PARKING_M / 2 + 0.05 + float(rng.uniform(-0.1, 0.1)))
            layout.place(vehicle, middle, d, turn)
        s += length + float(rng.uniform(0.8, 2.2))


def _sidewalk_things(layout: _Layout, side: int) -> None:
    rng, line = layout.rng, layout.line
    kerb = KERB_EDGE + 0.45
    towards_road = -side * np.pi / 2
    lamp = line.start + float(rng.uniform(0.0, 25.0))
    while lamp < line.end:
        if not layout.crosses_side_street(lamp, 1.0) and layout.claim(lamp, side * kerb, 0.5):
            layout.place(objects.street_lamp(), lamp, side * kerb, towards_road)
        lamp += float(rng.uniform(24.0, 32.0))
    for street in layout.side_streets:  # signs and bollards at the corners
        for s in (street.s - SIDE_STREET_M / 2 - 1.2, street.s + SIDE_STREET_M / 2 + 1.2):
            turn = 0.0 if side < 0 else np.pi
            if layout.claim(s, side * kerb, 0.4):
                thing = objects.traffic_sign(rng) if rng.random() < 0.6 else objects.bollard()
                layout.place(thing, s, side * kerb, turn)
    s = line.start + float(rng.uniform(2.0, 10.0))
    with_trees = rng.random() < 0.75
    while with_trees and s < line.end:
        if not layout.crosses_side_street(s, 2.5) and layout.claim(s, side * (kerb + 0.3), 0.6):
            height = float(rng.uniform(4.8, 7.2))
            layout.place(objects.tree(rng, height), s, side * (kerb + 0.3), float(rng.uniform(0, 6.28)))
        s += float(rng.uniform(9.0, 24.0))
    s = line.start + float(rng.uniform(2.0, 10.0))
    while s < line.end:
        d = side * float(rng.uniform(KERB_EDGE + 0.8, WALK_EDGE - 0.5))
        if not layout.crosses_side_street(s, 0.5) and layout.claim(s, d, 0.4):
            layout.place(objects.person(rng), s, d, float(rng.choice([0.0, np.pi]) + rng.normal(0, 0.2)))
        s += float(rng.uniform(6.0, 28.0))
    s = line.start + float(rng.uniform(10.0, 60.0))
    while s < line.end:
        if not layout.crosses_side_street(s, 6.0) and layout.claim(s, side * kerb, 0.4):
            layout.place(objects.traffic_sign(rng), s, side * kerb, 0.0 if side < 0 else np.pi)
        s += float(rng.uniform(35.0, 80.0))


def _oncoming(layout: _Layout, drive_length: float) -> None:
    """Cars waiting in the opposite lane, and one ahead of the end of the drive."""
    rng, line = layout.rng, layout.line
    s = float(rng.uniform(8.0, 40.0))
    while s < line.end - 10.0:
        vehicle, length = objects.car(rng)
        if not layout.crosses_side_street(s, length / 2 + 3.0):
            layout.place(vehicle, s, LANE_M / 2 + 0.1, np.pi)
        s += float(rng.uniform(22.0, 70.0))
    vehicle, _ = objects.car(rng)
    layout.place(vehicle, drive_length + float(rng.uniform(16.0, 40.0)), DRIVE_OFFSET, 0.0)


def _horizon(layout: _Layout) -> None:
    """Wooded hills around the town, so that the street never ends in the open."""
    rng = layout.rng
    centre = layout.line.position.mean(axis=0)
    reach = float(np.abs(layout.line.position - centre).max()) + FAR_EDGE
    count = 26
    for step in range(count):
        angle = 2.0 * np.pi * (step + float(rng.uniform(-0.3, 0.3))) / count
        distance = reach + float(rng.uniform(60.0, 150.0))
        size = float(rng.uniform(35.0, 60.0))
        middle = (
            float(centre[0] + distance * np.cos(angle)),
            float(centre[1] + distance * np.sin(angle)),
            -1.0,
        )
        radii = (size, size, float(rng.uniform(9.0, 24.0)))
        layout.parts.append(ellipsoid(radii, middle, "leaves_dark", StreetClass.VEGETATION, tile=14.0, subdivisions=3))
