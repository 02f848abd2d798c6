"""A town from its seed: plan of the street, and its contents stretch by stretch, so that no drive is too long.

Traffic that moves: vehicles in the lanes, one ahead of the rig, people who walk along the street and across it.

Whatever is in a lane moves alike, so a lane is a strip that is furnished once and pushed along the street. Nobody gives
way: vehicles drive through people who cross, and who is within `RIG_M` of the rig is left out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np

from scene_completion_training.arrays import Doubles, Random
from scene_completion_worlds.street import road_users
from scene_completion_worlds.street.ground import ARM_M, Ground, SideStreet, make_ground
from scene_completion_worlds.street.parts import Part, moved_all, triple
from scene_completion_worlds.street.roadside import furnish, lane_vehicle, lanes_of_others
from scene_completion_worlds.street.scene import World
from scene_completion_worlds.street.sky import draw_camera_look, draw_daylight
from scene_completion_worlds.street.street_line import (
    CORNER_RADIUS_M,
    GROUND_CLASSES,
    StreetKind,
    StreetLine,
    StreetProfile,
    draw_profile,
    make_street_line,
)
from scene_completion_worlds.street.street_objects import bush, conifer, tree
from scene_completion_worlds.street.textures import TextureAtlas, ground_textures, made_textures, road_textures

CLEARANCE_M = 2.6  # height over the lanes up to which plants are cut


@dataclass(frozen=True, eq=False)
class Nursery:
    """The plants that a town's trees and bushes are copies of, each with its height in metres."""

    trees: list[tuple[float, list[Part]]]
    conifers: list[tuple[float, list[Part]]]
    bushes: list[list[Part]]


def make_nursery(rng: Random) -> Nursery:
    """Grow a town's plants."""
    heights = rng.uniform(5.0, 13.0, 8)
    return Nursery(
        trees=[(float(height), tree(rng, float(height))) for height in heights],
        conifers=[(float(height), conifer(rng, float(height))) for height in rng.uniform(6.0, 15.0, 3)],
        bushes=[bush(rng, float(size)) for size in rng.uniform(0.7, 1.8, 5)],
    )


@dataclass
class Layout:
    """A stretch of the street, from one arc length to another, that is furnished; and the spots that are taken."""

    rng: Random
    ground: Ground
    nursery: Nursery
    start: float
    end: float
    parts: list[Part] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius

    def __post_init__(self) -> None:
        self.line, self.profile = self.ground.line, self.ground.profile

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def meets_side_street(self, s: float, side: int, margin: float) -> bool:
        """Whether an arm on a side, or the mouth of one on the other side, is within a margin of arc length s."""
        streets = self.ground.side_streets
        return any(one.covers(s, side, margin + one.sidewalk) or abs(s - one.s) < one.half for one in streets)

    def claim(self, s: float, d: float, radius: float) -> bool:
        """Take a round spot if nothing else wants it."""
        x, y = self.line.point(s, d).tolist()
        if any((x - a) ** 2 + (y - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, y, radius))
        return True

    def place(self, things: list[Part], s: float, d: float, turn: float = 0.0) -> None:
        """Stand an object at street coordinates, turned against the street's direction, tilted as the street is."""
        slope = float(self.line.height_at(s + 0.5) - self.line.height_at(s - 0.5))
        tilt = -slope * np.cos(turn)
        tilted = [part.tilted(0.0, float(tilt)) for part in things] if abs(tilt) > 2e-3 else things
        self.parts += self._stood(tilted, s, d, turn)

    def _stood(self, things: list[Part], s: float, d: float, turn: float) -> list[Part]:
        x, y = self.line.point(s, d).tolist()
        return moved_all(things, (x, y, self.ground.height(s, d)), float(self.line.heading_at(s)) + turn)

    def stand(
        self, make: Callable[[], list[Part]], s: float, d: float, turn: float = 0.0, *, clear: float, radius: float
    ) -> None:
        """Make an object and place it, unless a side street is as near as `clear` or its round spot is taken."""
        if not self.meets_side_street(s, 1 if d > 0 else -1, clear) and self.claim(s, d, radius):
            self.place(make(), s, d, turn)

    def place_if_clear(self, things: list[Part], s: float, d: float, turn: float, margin: float) -> bool:
        """Stand an object upright unless it would reach into the street, a side street, or what stands there."""
        moved = self._stood(things, s, d, turn)
        footprint = _footprint(np.concatenate([part.corners.reshape(-1, 3) for part in moved])[:, :2])
        if not self.is_clear(footprint, margin) or not self._claim_all(footprint):
            return False
        self.parts += moved
        return True

    def is_clear(self, xy: Doubles, margin: float) -> bool:
        """Whether world points [N, 2] keep a margin beyond the street's and the side streets' own ground."""
        _, d = self.line.nearest(xy)
        edge = np.where(d > 0, self.profile.left.walk_edge, self.profile.right.walk_edge)
        if (np.abs(d) < edge + margin).any():
            return False
        for street in self.ground.side_streets:
            along, aside = self.ground.seen_from(street, xy)
            near = np.abs(along) < street.half + street.sidewalk + margin
            if (near & (aside < street.left) & (aside > -street.right)).any():
                return False
        return True

    def _claim_all(self, xy: Doubles) -> bool:
        taken = np.array(self.taken or [(1e9, 1e9, 0.0)])
        away = np.linalg.norm(xy[:, None] - taken[None, :, :2], axis=-1) - taken[None, :, 2]
        if (away < 0.6).any():
            return False
        self.taken += [(float(x), float(y), 0.6) for x, y in xy]
        return True

    def along(self, start: float, end: float, d: float, make: Callable[[float], list[Part]], each: float = 2.5) -> None:
        """Lay pieces end to end from one arc length to another at a distance d; `make` gets the length of each."""
        if end - start < 0.3:
            return
        count = max(1, round((end - start) / each))
        s = np.linspace(start, end, count + 1)
        xy = self.line.point(s, d)
        z = np.array([self.ground.height(float(a), d) for a in s])
        steps = np.diff(xy, axis=0)
        lengths = np.linalg.norm(steps, axis=-1)
        for k in range(count):
            if lengths[k] < 0.2 or not self._keeps_off(xy[k : k + 2], d):
                continue
            slope = float(np.arctan2(z[k + 1] - z[k], lengths[k]))
            things = [part.tilted(0.0, -slope) for part in make(float(lengths[k]))]
            yaw = float(np.arctan2(steps[k, 1], steps[k, 0]))
            self.parts += moved_all(things, (float(xy[k, 0]), float(xy[k, 1]), float(z[k])), yaw)

    def _keeps_off(self, xy: Doubles, d: float) -> bool:
        """Whether points meant for distance d are that far from all of the street, also inside a corner."""
        _, nearest = self.line.nearest(xy)
        return bool((np.abs(nearest) > abs(d) - 0.25).all())

    def plant(self, s: float, d: float, height: tuple[float, float], *, conifers: float = 0.0) -> None:
        """Plant a tree where there is room for its trunk."""
        if not self.claim(s, d, 0.7) or not self._keeps_off(self.line.point(s, d)[None], d):
            return
        kinds = self.nursery.conifers if self.chance(conifers) else self.nursery.trees
        natural, parts = kinds[int(self.rng.integers(len(kinds)))]
        scale = float(np.clip(self.rng.uniform(*height) / natural, 0.55, 1.6))
        shade = self.rng.uniform(0.8, 1.15) * self.rng.uniform(0.93, 1.07, 3)
        self._place_trimmed([_copy(part, scale, shade) for part in parts], s, d)

    def _place_trimmed(self, parts: list[Part], s: float, d: float) -> None:
        """Stand a plant somewhere, turned at random, and cut what would hang into the traffic."""
        first = len(self.parts)
        self.place(parts, s, d, float(self.rng.uniform(0.0, 6.28)))
        placed, self.parts[first:] = self.parts[first:], []
        top = float(self.line.height_at(s)) + CLEARANCE_M
        for part in placed:
            low = part.corners[..., 2] < top
            hanging = np.zeros(low.shape, np.bool_)
            if low.any():
                _, away = self.line.nearest(part.corners[low][:, :2])
                edge = np.where(away > 0, self.profile.left.road_edge, self.profile.right.road_edge)
                hanging[low] = np.abs(away) < edge + 0.2
            cut = np.asarray(hanging.any(axis=1))
            if not cut.any():
                self.parts.append(part)
            elif not part.solid and not cut.all():
                kept = {name: getattr(part, name)[~cut] for name in ("corners", "uv", "normals", "texture")}
                self.parts.append(replace(part, **kept))

    def plant_bush(self, s: float, d: float) -> None:
        """Plant a bush, or a few."""
        if not self._keeps_off(self.line.point(s, d)[None], abs(d)):
            return
        parts = self.nursery.bushes[int(self.rng.integers(len(self.nursery.bushes)))]
        shade = self.rng.uniform(0.75, 1.2) * self.rng.uniform(0.9, 1.1, 3)
        self._place_trimmed([_copy(part, float(self.rng.uniform(0.7, 1.25)), shade) for part in parts], s, d)


def _copy(part: Part, scale: float, shade: Doubles) -> Part:
    return replace(part, corners=part.corners * scale, tint=triple(np.asarray(part.tint) * shade))


def _footprint(xy: Doubles) -> Doubles:
    """Points a metre apart in the convex hull of points [N, 2], its edge included."""
    from scipy.spatial import ConvexHull

    corners = xy[ConvexHull(xy).vertices]
    edges = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        count = max(1, int(np.linalg.norm(b - a)))
        edges.append(a + (b - a) * np.linspace(0.0, 1.0, count, endpoint=False)[:, None])
    ring = np.concatenate(edges)
    middle = ring.mean(axis=0)
    return np.concatenate([middle + (ring - middle) * share for share in (1.0, 0.7, 0.35)])


SECTION_M = 80.0  # of a strip, furnished from a seed of its own
RIG_M = 5.0
WALKING_M_S = (0.9, 1.8)
GAP_M = (14.0, 26.0)  # gap to the vehicle ahead of the rig at the start
PULLS_AWAY_M_S = 1.5  # at which it gets farther


@dataclass(frozen=True)
class Moment:
    """When a town is looked at."""

    time_s: float  # since the drive began
    rig_s: float  # arc length at which the rig is


START = Moment(0.0, 0.0)


@dataclass(frozen=True)
class Strip:
    """Things that move along the street, all at one speed."""

    number: int  # tells its random numbers from those of other strips
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
    for strip in _strips(seed, profile):
        for thing, s in strip.things(seed, layout.start, layout.end, moment.time_s):
            d, turn = strip.d, 0.0 if strip.speed > 0.0 else np.pi
            if strip.across:
                way = (s * 7.3 + strip.across * moment.time_s) % (4.0 * strip.d)  # any start, the same at all times
                d, turn = (way - strip.d, np.pi / 2) if way < 2.0 * strip.d else (3.0 * strip.d - way, -np.pi / 2)
            near = abs(s - moment.rig_s) < RIG_M and abs(d - profile.drive_offset) < 2.0
            if not near and (line.sharpest(s, 8.0) < 1 / 40.0 or thing.length < 5.0):
                layout.place(thing.parts, s, d, turn)
    rng = np.random.default_rng([seed, 18])
    ahead = moment.rig_s + float(rng.uniform(*GAP_M)) + PULLS_AWAY_M_S * moment.time_s
    vehicle = road_users.van(rng) if rng.random() < 0.3 else road_users.car(rng)
    if ahead < layout.end - 7.0:
        layout.place(vehicle.parts, ahead, profile.drive_offset)


def _strips(seed: int, profile: StreetProfile) -> Iterator[Strip]:
    rng = np.random.default_rng([seed, 16])
    for number, (sign, d) in enumerate(lanes_of_others(profile)):
        speed = -sign * profile.speed * float(rng.uniform(0.7, 1.1))
        yield Strip(number, d, speed, (12.0, 50.0), partial(lane_vehicle, kind=profile.kind))
    for number, sign in enumerate((1, -1), 20):
        side = profile.side(sign)
        for way in (0, 1) if side.sidewalk > 0.0 else ():
            d = sign * (side.verge_edge + (0.35 + 0.3 * way) * side.sidewalk)
            yield Strip(number + 10 * way, d, (1 - 2 * way) * float(rng.uniform(*WALKING_M_S)), (4.0, 40.0), _walker)
    edge = max(profile.left.kerb_edge, profile.right.kerb_edge) + 1.0
    yield Strip(40, edge, 0.0, (10.0, 40.0), _walker, across=float(rng.uniform(*WALKING_M_S)))


def _walker(rng: Random) -> road_users.Vehicle:
    return road_users.Vehicle(road_users.person(rng), 0.5, 0.5)


# A town from its seed: plan of the street, and its contents stretch by stretch, so that no drive is too long.


Role = Literal["training", "validation", "test", "demo"]
SEEDS_OF_ROLE: dict[Role, range] = {
    "training": range(1000),
    "validation": range(1000, 2000),
    "test": range(2000, 3000),
    "demo": range(7000, 8000),
}  # which seeds are whose: training, validation, test and demo towns never share one
BEHIND_M, AHEAD_M = 120.0, 280.0  # street beyond both ends of the drive
SECTIONS_KEPT = 8
STEEPEST_CREST = 0.06  # slope
STRAIGHT = 1 / 400.0  # curvature below which a side street may branch off


class Town(World):
    """The built part of a town, from one arc length to another."""

    ground_classes: tuple[int, ...] = GROUND_CLASSES

    def __init__(self, plan: "TownPlan", parts: list[Part], start: float, end: float) -> None:
        self.plan, self.parts, self.start, self.end = plan, parts, start, end
        self.atlas, self.look = plan.atlas, plan.look


def role_of_seed(seed: int, worlds: str = "towns") -> Role:
    """Role of a world's seed; a `ValueError` if it belongs to no role."""
    for role, seeds in SEEDS_OF_ROLE.items():
        if seed in seeds:
            return role
    known = ", ".join(f"{role} {seeds[0]}-{seeds[-1]}" for role, seeds in SEEDS_OF_ROLE.items())
    raise ValueError(f"seed {seed} belongs to no role: {worlds} are {known}")


def profile_of(seed: int) -> StreetProfile:
    """Cross-section and kind of a town's street."""
    return draw_profile(np.random.default_rng([seed, 11]))


class TownPlan:
    """A town that is laid out, but not built.

    A longer town of the same seed starts like a shorter one. Its length in metres, from s = 0, is what is driven; the
    street goes on beyond. A hilly one has crests and dips, too. In a busy one traffic moves.
    """

    def __init__(self, seed: int, length: float, *, hilly: bool = False, busy: bool = False) -> None:
        self.seed, self.length, self.busy = seed, length, busy
        rng = np.random.default_rng([seed, 1])
        self.profile = profile_of(seed)
        self.daylight = draw_daylight(rng)
        self.look = draw_camera_look(rng, self.daylight)
        edge = max(self.profile.left.walk_edge, self.profile.right.walk_edge)
        self.line = make_street_line(
            np.random.default_rng([seed, 7]),
            -BEHIND_M,
            length + AHEAD_M,
            corner_share=self.profile.sharp_turns,
            smallest_radius=max(CORNER_RADIUS_M[0], 2.0 + edge),
            grade=self.profile.grade,
            crests=np.random.default_rng([seed, 15]).uniform(0.0, STEEPEST_CREST) if hilly else 0.0,
        )
        streets = _draw_side_streets(np.random.default_rng([seed, 8]), self.line, self.profile)
        self.ground = Ground(self.line, self.profile, streets, rng.uniform(0.0, 2.0 * np.pi, 4))
        self._nursery = make_nursery(np.random.default_rng([seed, 12]))
        self._sections: OrderedDict[int, list[Part]] = OrderedDict()

    @cached_property
    def atlas(self) -> TextureAtlas:
        """The town's textures."""
        rng, wetness = np.random.default_rng([self.seed, 13]), self.daylight.wetness
        found = ground_textures(rng, wetness)
        return TextureAtlas(found | road_textures(rng, self.profile, wetness) | made_textures(rng))

    def build(self, start: float, end: float, moment: Moment = START) -> Town:
        """Build all sections that touch a stretch of the street, and traffic where it is at a moment."""
        first, last = int(np.floor(start / SECTION_M)), int(np.floor(end / SECTION_M))
        start = max(first * SECTION_M, self.line.start)
        end = min((last + 1) * SECTION_M, self.line.end)
        parts = make_ground(self.ground, start, end, self.atlas)
        for index in range(first, last + 1):
            parts += self.section(index)
        parts += self._traffic(start, end, moment) if self.busy else self._leader(start, end)
        return Town(self, parts, start, end)

    def section(self, index: int) -> list[Part]:
        """What stands on the stretch of `SECTION_M` that starts at `index` times its length."""
        if index not in self._sections:
            start = max(index * SECTION_M, self.line.start + 1.0)
            end = min((index + 1) * SECTION_M, self.line.end - 1.0)
            rng = np.random.default_rng([self.seed, 9, index + 1000])
            layout = Layout(rng, self.ground, self._nursery, start, end)
            if end > start + 10.0:
                furnish(layout, traffic=not self.busy)
            self._sections[index] = layout.parts
            while len(self._sections) > SECTIONS_KEPT:
                self._sections.popitem(last=False)
        return self._sections[index]

    def _traffic(self, start: float, end: float, moment: Moment) -> list[Part]:
        layout = Layout(np.random.default_rng([self.seed, 19]), self.ground, self._nursery, start, end)
        put_traffic(layout, self.seed, moment)
        return layout.parts

    def _leader(self, start: float, end: float) -> list[Part]:
        """A vehicle in the rig's lane, beyond the end of the drive."""
        rng = np.random.default_rng([self.seed, 10])
        s = self.length + float(rng.uniform(16.0, 40.0))
        if not start < s < end - 10.0:
            return []
        layout = Layout(rng, self.ground, self._nursery, start, end)
        vehicle = road_users.van(rng) if rng.random() < 0.3 else road_users.car(rng)
        layout.place(vehicle.parts, s, self.profile.drive_offset)
        return layout.parts


def _draw_side_streets(rng: Random, line: StreetLine, profile: StreetProfile) -> list[SideStreet]:
    """Side streets where the main street is straight; arms that would meet it again elsewhere are left out."""
    streets = []
    spacing = (70.0, 220.0) if profile.kind in (StreetKind.COUNTRY, StreetKind.ARTERIAL) else (40.0, 95.0)
    s = line.start + 20.0
    while s < line.end - 20.0:
        s += float(rng.uniform(*spacing))
        half, walk = float(rng.uniform(2.4, 4.2)), float(rng.uniform(1.4, 2.4))
        zebra, kind = bool(rng.random() < 0.4), int(rng.integers(3))  # both sides, left, right
        straight = [at for at in np.arange(s, s + 30.0, 3.0) if line.sharpest(at, half + walk + 6.0) < STRAIGHT]
        if not straight or straight[0] > line.end - 20.0:
            continue
        s = float(straight[0])
        left, right = (ARM_M * (kind != skipped and _arm_is_free(line, s, sign)) for sign, skipped in ((1, 2), (-1, 1)))
        if left or right:
            bare = profile.kind is StreetKind.COUNTRY
            streets.append(SideStreet(s, half, 0.0 if bare else walk, left, right, zebra and not bare))
    return streets


def _arm_is_free(line: StreetLine, s: float, sign: int) -> bool:
    d = sign * np.linspace(8.0, ARM_M + 8.0, 8)
    _, nearest = line.nearest(line.point(s, d))
    return bool((np.abs(nearest) > 0.9 * np.abs(d)).all())
