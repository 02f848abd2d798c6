"""Traffic that moves: vehicles in the lanes, one ahead of the rig, people who walk along the street and across it.

All of a lane has one speed, so that it is made once and pushed along the street. There is no right of way: vehicles
drive through people who cross. Within `RIG_M` of the rig there is nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from scene_completion_training.arrays import Random
from scene_completion_worlds.street import road_users
from scene_completion_worlds.street.layout import SECTION_M, Layout
from scene_completion_worlds.street.roadside import lane_vehicle, lanes_of_others
from scene_completion_worlds.street.street_line import StreetProfile

RIG_M = 5.0
WALKING_M_S = (0.9, 1.8)
AHEAD_M = (14.0, 26.0)  # gap to the vehicle ahead of the rig at the start
PULLS_AWAY_M_S = 1.5  # at which it gets farther


@dataclass(frozen=True)
class Moment:
    """When a town is looked at."""

    time_s: float  # since the drive began
    rig_s: float  # arc length at which the rig is


START = Moment(0.0, 0.0)


@dataclass(frozen=True)
class Stream:
    """Things that move along the street, all at one speed."""

    number: int  # seeds its random numbers
    d: float  # metres to the left of the centre line
    speed: float  # metres a second, against the street's direction where negative
    gaps: tuple[float, float]  # shortest and longest gap between two things, metres
    make: Callable[[Random], road_users.Vehicle]
    across: float = 0.0  # metres a second at which each also walks to and fro across the street, up to `d` on each side

    def things(self, seed: int, start: float, end: float, time_s: float) -> Iterator[tuple[road_users.Vehicle, float]]:
        """What is between two arc lengths at a time, and its arc length."""
        push = self.speed * time_s
        for section in range(int((start - push) // SECTION_M), int((end - push) // SECTION_M) + 1):
            rng = np.random.default_rng([seed, 17, self.number, section + 1000])
            at = float(rng.uniform(0.0, self.gaps[1]))
            while at < SECTION_M - 7.0:
                thing = self.make(rng)
                s = section * SECTION_M + at + push
                if start + 7.0 < s < end - 7.0:
                    yield thing, s
                at += thing.length + float(rng.uniform(*self.gaps))


def put_traffic(layout: Layout, seed: int, moment: Moment) -> None:
    """Place all that moves between the ends of a layout at a moment."""
    line, profile = layout.line, layout.profile
    for stream in _streams(seed, profile):
        for thing, s in stream.things(seed, layout.start, layout.end, moment.time_s):
            d, turn = stream.d, 0.0 if stream.speed > 0.0 else np.pi
            if stream.across:
                way = (s * 7.3 + stream.across * moment.time_s) % (4.0 * stream.d)  # any start, the same at all times
                d, turn = (way - stream.d, np.pi / 2) if way < 2.0 * stream.d else (3.0 * stream.d - way, -np.pi / 2)
            near = abs(s - moment.rig_s) < RIG_M and abs(d - profile.drive_offset) < 2.0
            if not near and (line.sharpest(s, 8.0) < 1 / 40.0 or thing.length < 5.0):
                layout.place(thing.parts, s, d, turn)
    rng = np.random.default_rng([seed, 18])
    ahead = moment.rig_s + float(rng.uniform(*AHEAD_M)) + PULLS_AWAY_M_S * moment.time_s
    vehicle = road_users.van(rng) if rng.random() < 0.3 else road_users.car(rng)
    if ahead < layout.end - 7.0:
        layout.place(vehicle.parts, ahead, profile.drive_offset)


def _streams(seed: int, profile: StreetProfile) -> Iterator[Stream]:
    rng = np.random.default_rng([seed, 16])
    for number, (sign, d) in enumerate(lanes_of_others(profile)):
        speed = -sign * profile.speed * float(rng.uniform(0.7, 1.1))
        yield Stream(number, d, speed, (12.0, 50.0), partial(lane_vehicle, kind=profile.kind))
    for number, sign in enumerate((1, -1), 20):
        side = profile.side(sign)
        for way in (0, 1) if side.sidewalk > 0.0 else ():
            d = sign * (side.verge_edge + (0.35 + 0.3 * way) * side.sidewalk)
            yield Stream(number + 10 * way, d, (1 - 2 * way) * float(rng.uniform(*WALKING_M_S)), (4.0, 40.0), _walker)
    edge = max(profile.left.kerb_edge, profile.right.kerb_edge) + 1.0
    yield Stream(40, edge, 0.0, (10.0, 40.0), _walker, across=float(rng.uniform(*WALKING_M_S)))


def _walker(rng: Random) -> road_users.Vehicle:
    return road_users.Vehicle(road_users.person(rng), 0.5, 0.5)
