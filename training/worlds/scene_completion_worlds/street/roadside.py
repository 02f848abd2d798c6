"""Furnishes a stretch of each kind of street, and puts traffic on it."""

from collections.abc import Callable
from functools import partial

import numpy as np

from scene_completion_training.arrays import Random
from scene_completion_worlds.street import road_users, street_objects
from scene_completion_worlds.street.layout import Layout
from scene_completion_worlds.street.parts import Part
from scene_completion_worlds.street.street_line import SideProfile, StreetKind
from scene_completion_worlds.street.street_objects import LEAVES, crop, hedge, stump
from scene_completion_worlds.street.textures import FLOORS

BUILT_UP = (StreetKind.RESIDENTIAL, StreetKind.INNER_CITY, StreetKind.SUBURB)
Maker = Callable[[Random], road_users.Vehicle]
FENCES = ("planks", "rails", "mesh", "bars", "wall")


def furnish(layout: Layout) -> None:
    """Fill a stretch of the street on both sides, and its lanes."""
    for sign in (1, -1):
        side = layout.profile.side(sign)
        if layout.profile.kind in BUILT_UP:
            _houses(layout, sign, side)
        else:
            _open_land(layout, sign, side)
        if side.parking > 0.0:
            _parked(layout, sign, side)
        if side.sidewalk > 0.0:
            _sidewalk(layout, sign, side)
        _road_signs(layout, sign, side)
        if layout.profile.kind in BUILT_UP:
            _backdrop(layout, sign, side)
    _corners(layout)
    _traffic(layout)


def _houses(layout: Layout, sign: int, side: SideProfile) -> None:
    """Houses and what lies between them, in order of arc length."""
    rng, kind = layout.rng, layout.profile.kind
    s = layout.start + float(rng.uniform(0.0, 2.0))
    setbacks, shares = {
        StreetKind.INNER_CITY: ((0.1, 0.1, 2.0), (0.6, 0.3, 0.1)),
        StreetKind.RESIDENTIAL: ((0.2, 2.5, 5.0), (0.3, 0.4, 0.3)),
        StreetKind.SUBURB: ((3.0, 5.0, 8.0), (0.3, 0.4, 0.3)),
    }[kind]
    while s < layout.end - 4.0:
        width = float(rng.uniform(7.0, 18.0 if kind is not StreetKind.SUBURB else 13.0))
        setback = float(rng.choice(setbacks, p=shares) + rng.uniform(0.0, 1.0))
        gardens = {StreetKind.INNER_CITY: 0.05, StreetKind.SUBURB: 0.2}.get(kind, 0.12)
        if s + width > layout.end or layout.chance(gardens):
            width = min(width, layout.end - s)
            _garden(layout, sign, side, (s, s + width))
        elif _house(layout, sign, side, s, width, setback):
            _front(layout, sign, side, (s, s + width), setback)
        else:
            _garden(layout, sign, side, (s, s + width))
        s += width
        gaps = [0.7, 0.2, 0.1] if kind is StreetKind.INNER_CITY else [0.15, 0.4, 0.45]
        gap = float(rng.choice([0.05, 2.5, 6.0], p=gaps))
        if gap > 1.0 and s + gap < layout.end:
            _garden(layout, sign, side, (s, s + gap))
        s += gap


def _house(layout: Layout, sign: int, side: SideProfile, s: float, width: float, setback: float) -> bool:
    rng, kind = layout.rng, layout.profile.kind
    depth = float(rng.uniform(9.0, 13.0))
    lowest = {StreetKind.INNER_CITY: 3, StreetKind.RESIDENTIAL: 2}.get(kind, 1)
    highest = 2 if kind is StreetKind.SUBURB else FLOORS
    arcade = float(rng.uniform(1.4, 2.2)) if kind is StreetKind.INNER_CITY and layout.chance(0.15) else 0.0
    floors = int(rng.integers(lowest, highest + 1))
    shops = kind is StreetKind.INNER_CITY or layout.chance(0.12)
    body = street_objects.house(rng, width, depth, floors, shops=shops, arcade_m=arcade)
    back = [part.moved((-width / 2, arcade, 0.0)) for part in body]  # around the middle of its front
    turn = (0.0 if sign > 0 else np.pi) + float(rng.normal(0.0, 0.03)) * (setback > 2.5)
    distance = sign * (side.walk_edge + setback + 0.05)
    return layout.place_if_clear(back, s + width / 2, distance, turn, -1.35 if setback < 1.5 else 0.0)


def _front(layout: Layout, sign: int, side: SideProfile, reach: tuple[float, float], setback: float) -> None:
    """The garden before a house, with a gate; a garage or a car next to the house."""
    if setback < 1.8:
        return
    rng = layout.rng
    gate = reach[0] + float(rng.uniform(0.2, 0.8)) * (reach[1] - reach[0] - 1.5)
    make = _border(layout)
    if make is not None:
        layout.along(reach[0], gate, sign * (side.walk_edge + 0.4), make)
        layout.along(gate + 1.5, reach[1], sign * (side.walk_edge + 0.4), make)
    for _ in range(int(rng.integers(1, 5))):
        s = float(rng.uniform(*reach))
        layout.plant_bush(s, sign * (side.walk_edge + float(rng.uniform(1.2, max(1.3, setback - 0.6)))))
    if setback > 4.0 and layout.chance(0.5):
        layout.plant(float(rng.uniform(*reach)), sign * (side.walk_edge + 2.2), (3.5, 7.0), conifers=0.25)


def _border(layout: Layout) -> Callable[[float], list[Part]] | None:
    """A maker of hedge or fence pieces, or nothing."""
    rng = layout.rng
    if layout.chance(0.12):
        return None
    if layout.chance(0.5):
        texture, height = str(rng.choice(LEAVES)), float(rng.uniform(0.8, 2.1))
        return lambda length: hedge(rng, length, height, texture)
    kind, height = str(rng.choice(FENCES)), float(rng.uniform(0.8, 1.7))
    return lambda length: street_objects.fence(length, kind, height)


def _garden(layout: Layout, sign: int, side: SideProfile, reach: tuple[float, float]) -> None:
    """No house: trees and bushes behind a hedge or a fence, perhaps a garage or a car in a drive."""
    rng = layout.rng
    middle, width = (reach[0] + reach[1]) / 2, reach[1] - reach[0]
    if layout.meets_side_street(middle, sign, width / 2):
        return
    drive = 3.0 < width < 9.0 and layout.chance(0.45)
    if drive:
        back = float(rng.uniform(3.5, 6.0))
        if layout.chance(0.6):
            body = [part.moved((-1.5, 0.0, 0.0)) for part in street_objects.garage(rng)]
            layout.place_if_clear(body, middle, sign * (side.walk_edge + back), 0.0 if sign > 0 else np.pi, 1.0)
        if layout.chance(0.6):
            car = road_users.car(rng) if layout.chance(0.85) else road_users.trailer(rng)
            turn = sign * np.pi / 2 * float(rng.choice([-1.0, 1.0]))
            layout.place_if_clear(car.parts, middle, sign * (side.walk_edge + back - car.length / 2 - 0.3), turn, 0.2)
        return
    if (make := _border(layout)) is not None:
        layout.along(*reach, sign * (side.walk_edge + 0.5), make)
    for _ in range(int(rng.integers(0, 2 + round(width / 3)))):
        d = side.walk_edge + float(rng.uniform(2.0, 18.0))
        layout.plant(float(rng.uniform(*reach)), sign * d, (4.0, 13.0), conifers=0.2)
    for _ in range(int(rng.integers(0, 2 + round(width / 3)))):
        layout.plant_bush(float(rng.uniform(*reach)), sign * (side.walk_edge + float(rng.uniform(1.3, 9.0))))


def _backdrop(layout: Layout, sign: int, side: SideProfile) -> None:
    """Houses and trees of the next street, seen through the gaps."""
    rng = layout.rng
    for _ in range(int(rng.integers(1, 4))):
        width = float(rng.uniform(9.0, 20.0))
        body = street_objects.house(rng, width, 10.0, int(rng.integers(1, FLOORS + 1)), shops=False)
        s, d = float(rng.uniform(layout.start, layout.end)), sign * (side.walk_edge + float(rng.uniform(24.0, 50.0)))
        layout.place_if_clear(body, s, d, float(rng.choice([0.0, np.pi / 2, np.pi])), 8.0)
    for _ in range(int(rng.integers(4, 14))):
        s, d = float(rng.uniform(layout.start, layout.end)), sign * (side.walk_edge + float(rng.uniform(13.0, 42.0)))
        if not layout.meets_side_street(s, sign, 3.0):
            layout.plant(s, d, (6.0, 15.0), conifers=0.25)


def _open_land(layout: Layout, sign: int, side: SideProfile) -> None:
    """Country and arterial roads: fields, woods, rows of trees, rails, now and then a building."""
    rng, arterial = layout.rng, layout.profile.kind is StreetKind.ARTERIAL
    start, end = layout.start, layout.end
    edge = side.walk_edge
    kinds = ("woods", "row", "field", "hedge", "yard", "bare")
    cover = str(rng.choice(kinds, p=(0.28, 0.18, 0.12, 0.12, 0.18, 0.12)))
    if layout.chance(0.6 if arterial else 0.2):
        layout.along(start, end, sign * (edge + 0.75), street_objects.guard_rail, each=4.0)
    elif not arterial or layout.chance(0.4):
        for s in np.arange(start + 5.0, end, 25.0).tolist():
            layout.stand(street_objects.delineator, s, sign * (edge + 0.8), clear=1.0, radius=0.3)
    if cover == "woods":
        depth = float(rng.uniform(8.0, 30.0))
        for _ in range(round(1.1 * depth)):
            d = edge + 3.0 + float(rng.uniform(0.0, 1.0)) ** 1.5 * depth
            layout.plant(float(rng.uniform(start, end)), sign * d, (5.0, 16.0), conifers=0.25)
        _scatter_bushes(layout, sign, (edge + 2.0, edge + 9.0), 26)
    elif cover == "row":
        for s in np.arange(start + float(rng.uniform(1, 6)), end, float(rng.uniform(7.0, 14.0))).tolist():
            layout.plant(s, sign * (edge + 2.4), (7.0, 14.0))
    elif cover == "field":
        if layout.chance(0.5):
            height = float(rng.uniform(1.2, 2.4))
            layout.along(start, end, sign * (edge + (3.0 if sign > 0 else 7.5)), lambda length: crop(length, height))
        else:
            layout.along(start, end, sign * (edge + 3.5), lambda length: street_objects.fence(length, "rails", 1.1))
        if layout.chance(0.3):
            layout.place_if_clear(stump(rng), float(rng.uniform(start, end)), sign * (edge + 3.0), 0.0, 0.5)
    elif cover == "hedge":
        height, texture = float(rng.uniform(1.4, 3.0)), str(rng.choice(LEAVES))
        layout.along(start, end, sign * (edge + 2.2), lambda length: hedge(rng, length, height, texture))
        _scatter_bushes(layout, sign, (edge + 2.0, edge + 4.0), 16)
    elif cover == "yard":
        _yard(layout, sign, side)
    _scatter_bushes(layout, sign, (edge + 2.0, edge + 14.0), int(rng.integers(0, 9)))


def _scatter_bushes(layout: Layout, sign: int, between: tuple[float, float], count: int) -> None:
    for _ in range(count):
        s = float(layout.rng.uniform(layout.start, layout.end))
        if not layout.meets_side_street(s, sign, 2.0):
            layout.plant_bush(s, sign * float(layout.rng.uniform(*between)))


def _yard(layout: Layout, sign: int, side: SideProfile) -> None:
    """A workshop, a supermarket or a farm behind its fence, with vehicles before it."""
    rng = layout.rng
    width, depth = float(rng.uniform(18.0, 40.0)), float(rng.uniform(12.0, 25.0))
    middle, setback = (layout.start + layout.end) / 2, float(rng.uniform(7.0, 16.0))
    body = [part.moved((-width / 2, 0.0, 0.0)) for part in street_objects.hall(rng, width, depth)]
    turn = 0.0 if sign > 0 else np.pi
    layout.place_if_clear(body, middle, sign * (side.walk_edge + setback), turn, 2.0)
    makers = (road_users.car, road_users.van, road_users.truck, road_users.trailer)
    for _ in range(5):
        vehicle = makers[int(rng.choice(4, p=[0.6, 0.15, 0.15, 0.1]))](rng)
        s = float(rng.uniform(layout.start + 6, layout.end - 6))
        d = sign * (side.walk_edge + setback - 3.2)
        layout.place_if_clear(vehicle.parts, s, d, float(rng.choice([0.0, np.pi / 2, np.pi])), 1.2)
    if layout.chance(0.6):
        fence = partial(street_objects.fence, kind=str(rng.choice(["mesh", "bars", "planks"])), height=1.6)
        layout.along(layout.start, layout.end, sign * (side.walk_edge + 1.6), fence)
    if layout.chance(0.6):
        layout.place_if_clear(street_objects.direction_board(rng), middle, sign * (side.walk_edge + 2.6), turn, 0.5)


def _parked(layout: Layout, sign: int, side: SideProfile) -> None:
    """Cars along the kerb; behind them the sidewalk is free, which is what completion has to find out."""
    rng = layout.rng
    density = float(rng.uniform(0.25, 0.85))
    s = layout.start + float(rng.uniform(0.0, 3.0))
    makers = (road_users.car, road_users.van, road_users.truck, road_users.trailer, road_users.motorcycle)
    while s < layout.end:
        vehicle = makers[int(rng.choice(len(makers), p=(0.86, 0.06, 0.02, 0.03, 0.03)))](rng)
        middle = s + vehicle.length / 2
        if s + vehicle.length > layout.end:
            return
        # A long body cuts the inside of a bend.
        sagitta = layout.line.sharpest(middle, vehicle.length / 2) * vehicle.length**2 / 8
        room = side.parking - vehicle.width
        blocked = layout.meets_side_street(middle, sign, vehicle.length / 2 + 3.0) or sagitta > 0.25
        if layout.chance(density) and not blocked and room > -0.45:
            turn = (0.0 if sign < 0 else np.pi) + float(rng.normal(0.0, 0.02)) + np.pi * layout.chance(0.1)
            d = side.road_edge + vehicle.width / 2 + max(0.55 * room, 0.02) + float(rng.uniform(-0.04, 0.06))
            layout.place(vehicle.parts, middle, sign * d, turn)
        s += vehicle.length + float(rng.uniform(0.7, 2.4))


def _sidewalk(layout: Layout, sign: int, side: SideProfile) -> None:
    rng, kind = layout.rng, layout.profile.kind
    kerb = side.kerb_edge + 0.45
    if layout.chance(0.8):
        lamp = partial(street_objects.street_lamp, rng)
        make = street_objects.power_pole if kind is StreetKind.SUBURB and layout.chance(0.4) else lamp
        for s in np.arange(layout.start + float(rng.uniform(0, 12)), layout.end, float(rng.uniform(22, 34))).tolist():
            layout.stand(make, s, sign * kerb, -sign * np.pi / 2, clear=1.0, radius=0.5)
    if layout.chance(0.65):
        step = float(rng.uniform(8.0, 22.0))
        row = side.kerb_edge + min(0.75, 0.5 * side.verge + 0.5)
        for s in np.arange(layout.start + float(rng.uniform(1, 8)), layout.end, step).tolist():
            if not layout.meets_side_street(s, sign, 2.5):
                layout.plant(s, sign * row, (4.5, 10.0))
    for _ in range(int(rng.poisson({StreetKind.INNER_CITY: 7.0, StreetKind.RESIDENTIAL: 3.0}.get(kind, 1.2)))):
        _passer_by(layout, sign, side)
    if kind is StreetKind.INNER_CITY:
        for _ in range(int(rng.integers(0, 4))):
            s = float(rng.uniform(layout.start, layout.end))
            if side.sidewalk > 3.0:
                make = partial(street_objects.terrace, rng)
                layout.stand(make, s, sign * (side.walk_edge - 1.2), clear=2.0, radius=1.4)
        for s in np.arange(layout.start, layout.end, 3.0).tolist() if layout.chance(0.3) else []:
            layout.stand(street_objects.bollard, s, sign * kerb, clear=0.5, radius=0.2)
    if layout.chance(0.2) and side.sidewalk > 2.2:
        s = float(rng.uniform(layout.start + 4, layout.end - 4))
        turn = 0.0 if sign > 0 else np.pi
        layout.stand(street_objects.shelter, s, sign * (side.walk_edge - 0.9), turn, clear=4.0, radius=2.0)


def _passer_by(layout: Layout, sign: int, side: SideProfile) -> None:
    rng = layout.rng
    s = float(rng.uniform(layout.start, layout.end))
    d = sign * float(rng.uniform(side.verge_edge + 0.4, side.walk_edge - 0.3))
    if layout.meets_side_street(s, sign, 0.5) or not layout.claim(s, d, 0.5):
        return
    kind = rng.random()
    turn = float(rng.choice([0.0, np.pi]) + rng.normal(0, 0.3))
    vehicle = road_users.bicycle if kind < 0.92 else road_users.motorcycle
    layout.place(road_users.person(rng) if kind < 0.72 else vehicle(rng).parts, s, d, turn)


def _road_signs(layout: Layout, sign: int, side: SideProfile) -> None:
    rng, turn = layout.rng, 0.0 if sign < 0 else np.pi
    for _ in range(int(rng.integers(0, 3))):
        s, make = float(rng.uniform(layout.start, layout.end)), partial(street_objects.traffic_sign, rng)
        layout.stand(make, s, sign * (side.kerb_edge + 0.5), turn, clear=1.5, radius=0.4)
    if layout.profile.kind is StreetKind.ARTERIAL and layout.chance(0.5):
        s, make = float(rng.uniform(layout.start, layout.end)), partial(street_objects.direction_board, rng)
        layout.stand(make, s, sign * (side.walk_edge + 2.8), turn, clear=3.0, radius=1.5)


def _corners(layout: Layout) -> None:
    """Signs, lights and lamps where side streets meet the main one."""
    rng, signs = layout.rng, (street_objects.traffic_sign, street_objects.street_lamp)
    for street in layout.ground.side_streets:
        if not layout.start <= street.s < layout.end:
            continue
        lights = layout.chance(0.35)
        for sign in (1, -1):
            side = layout.profile.side(sign)
            for s in (street.s - street.half - 1.2, street.s + street.half + 1.2):
                d = sign * (side.kerb_edge + 0.5)
                if layout.claim(s, d, 0.4):
                    make = street_objects.traffic_light if lights else signs[int(rng.integers(2))]
                    layout.place(make(rng), s, d, 0.0 if sign < 0 else np.pi)


def _lane_vehicle(rng: Random, kind: StreetKind) -> road_users.Vehicle:
    """A vehicle as one meets it in the lanes of a kind of street."""
    usual = (road_users.car, road_users.van, road_users.truck)
    lorry: Maker = partial(road_users.truck, long=True) if kind is StreetKind.ARTERIAL else road_users.truck
    makers: tuple[Maker, ...] = (*usual, lorry, road_users.bus, road_users.motorcyclist, road_users.cyclist)
    return makers[int(rng.choice(len(makers), p=(0.69, 0.09, 0.05, 0.03, 0.04, 0.04, 0.06)))](rng)


def _traffic(layout: Layout) -> None:
    """Vehicles in all lanes but the rig's, and cyclists at the edge of the opposite one."""
    rng, profile = layout.rng, layout.profile
    lanes = ((sign, lane) for sign in (1, -1) for lane in range(profile.side(sign).lanes))
    for sign, lane in lanes:
        side = profile.side(sign)
        d = sign * (side.median + (lane + 0.5) * side.lane)
        if abs(d - profile.drive_offset) < 0.1:
            continue
        s = layout.start + float(rng.uniform(4.0, 50.0))
        while s < layout.end - 7.0:
            vehicle = _lane_vehicle(rng, profile.kind)
            at_edge = sign * (side.road_edge - 0.7) if vehicle.width < 0.65 and side.lanes == 1 else d
            if layout.line.sharpest(s, 8.0) < 1 / 40.0 or vehicle.length < 5.0:
                layout.place(vehicle.parts, s, at_edge, 0.0 if sign < 0 else np.pi)
            s += vehicle.length + float(rng.uniform(12.0, 70.0))
