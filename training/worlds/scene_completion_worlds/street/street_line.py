"""The centre line of the street by arc length, with bends, corners and slopes; and how the rig moves along it."""

from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from scene_completion_ros.geometry.transforms import RigidTransform, rotation_of_angles
from scene_completion_training.arrays import Doubles, Random

# Classes in the vocabulary of SemanticKITTI's semantic scene completion, by its learning ids from 0 on; that is free
# space in voxels and sky in images.
StreetClass = IntEnum(
    "StreetClass",
    "FREE CAR BICYCLE MOTORCYCLE TRUCK OTHER_VEHICLE PERSON BICYCLIST MOTORCYCLIST ROAD PARKING SIDEWALK OTHER_GROUND "
    "BUILDING FENCE VEGETATION TRUNK TERRAIN POLE TRAFFIC_SIGN",
    start=0,
)
GROUND_CLASSES = tuple(StreetClass[name] for name in ("ROAD", "PARKING", "SIDEWALK", "OTHER_GROUND", "TERRAIN"))


class StreetKind(Enum):
    """What a town's street is like."""

    RESIDENTIAL = "residential"
    INNER_CITY = "inner city"
    SUBURB = "suburb"
    COUNTRY = "country"
    ARTERIAL = "arterial"


# How often a seed draws them.
KIND_SHARES = dict(zip(StreetKind, (0.30, 0.18, 0.22, 0.16, 0.14), strict=True))


@dataclass(frozen=True)
class Strip:
    """A band of one surface along the street."""

    inner: float  # distance of its near edge from the centre line, metres
    outer: float  # of its far edge
    texture: str  # name in the atlas
    label: StreetClass
    height: float  # above the lanes, metres


@dataclass(frozen=True)
class SideProfile:
    """Cross-section to one side of the centre line; widths in metres, 0 where there is no such strip."""

    median: float  # half of the strip between the directions
    lanes: int
    lane: float
    shoulder: float  # asphalt next to the outermost lane, with the edge line
    parking: float
    verge: float  # grass between kerb and sidewalk
    sidewalk: float
    kerb: float  # height of the kerb; 0 without one
    bank: float  # rise of the terrain beyond the street, negative for a fall
    bank_width: float  # over which the terrain rises
    parking_texture: str
    sidewalk_texture: str

    @property
    def road_edge(self) -> float:
        """Distance from the centre line to the end of the lanes and their shoulder."""
        return self.median + self.lanes * self.lane + self.shoulder

    @property
    def kerb_edge(self) -> float:
        """Distance to the kerb, behind the parked cars."""
        return self.road_edge + self.parking

    @property
    def verge_edge(self) -> float:
        """Distance to the near edge of the sidewalk."""
        return self.kerb_edge + self.verge

    @property
    def walk_edge(self) -> float:
        """Distance to the end of the street's own ground."""
        return self.verge_edge + self.sidewalk

    def strips(self, road_texture: str) -> list[Strip]:
        """Bands from the centre line outwards."""
        bands = [
            Strip(0.0, self.median, "median", StreetClass.OTHER_GROUND, max(self.kerb, 0.08)),
            Strip(self.median, self.road_edge, road_texture, StreetClass.ROAD, 0.0),
            Strip(self.road_edge, self.kerb_edge, self.parking_texture, StreetClass.PARKING, 0.0),
            Strip(self.kerb_edge, self.verge_edge, "grass", StreetClass.TERRAIN, self.kerb),
            Strip(self.verge_edge, self.walk_edge, self.sidewalk_texture, StreetClass.SIDEWALK, self.kerb),
        ]
        return [band for band in bands if band.outer - band.inner > 1e-6]


@dataclass(frozen=True)
class StreetProfile:
    """Cross-section of a town's street."""

    kind: StreetKind
    left: SideProfile  # side of the oncoming traffic
    right: SideProfile  # side of the rig
    centre_line: str  # "dashed", "solid" or "none"
    speed: float  # at which the rig drives where nothing slows it, metres a second
    grade: float  # steepest slope of the street
    sharp_turns: float  # share of the bends that are corners

    def side(self, sign: int) -> SideProfile:
        """The left side for +1, the right one for -1."""
        return self.left if sign > 0 else self.right

    @property
    def drive_offset(self) -> float:
        """Where the rig drives: the middle of the right side's outermost lane, metres to the left."""
        return -(self.right.median + (self.right.lanes - 0.5) * self.right.lane)


def draw_profile(rng: Random) -> StreetProfile:
    """Draw kind and cross-section of a street."""
    kind = list(KIND_SHARES)[int(rng.choice(len(KIND_SHARES), p=list(KIND_SHARES.values())))]
    widths = {"arterial": 3.5, "country": 3.1, "inner city": 3.1}
    lane = float(widths.get(kind.value, 3.0) + rng.uniform(-0.2, 0.25))
    lanes = int(rng.integers(1, 3)) + int(rng.random() < 0.3) if kind is StreetKind.ARTERIAL else 1
    median = float(rng.choice([0.0, 0.5, 1.6])) if kind is StreetKind.ARTERIAL else 0.0
    kerb = float(rng.uniform(0.06, 0.16)) if kind is not StreetKind.COUNTRY else 0.0
    speeds = {"arterial": 15.0, "country": 14.0, "suburb": 9.5, "residential": 8.5, "inner city": 8.0}
    centre = {"arterial": ("dashed", "solid"), "suburb": ("none", "none", "dashed"), "residential": ("none", "dashed")}
    paving = (str(rng.choice(["parking", "asphalt"])), str(rng.choice(["sidewalk", "asphalt_light", "sidewalk_small"])))
    sides = [_draw_side(rng, kind, (median, lanes, lane, kerb), paving) for _ in range(2)]
    return StreetProfile(
        kind=kind,
        left=sides[0],
        right=sides[1],
        centre_line=str(rng.choice(centre.get(kind.value, ("dashed", "dashed", "solid")))),
        speed=float(speeds[kind.value] * rng.uniform(0.85, 1.15)),
        grade=float(rng.choice([0.004, 0.015, 0.035 if kind is not StreetKind.ARTERIAL else 0.02])),
        sharp_turns={"arterial": 0.1, "country": 0.15, "suburb": 0.4}.get(kind.value, 0.5),
    )


def _draw_side(
    rng: Random, kind: StreetKind, middle: tuple[float, int, float, float], paving: tuple[str, str]
) -> SideProfile:
    median, lanes, lane, kerb = middle
    parked = {"residential": 0.85, "inner city": 0.8, "suburb": 0.5}.get(kind.value, 0.0)
    walked = {"country": 0.1, "arterial": 0.4}.get(kind.value, 1.0)
    verged = {"residential": 0.15, "inner city": 0.05, "suburb": 0.35, "arterial": 0.6}.get(kind.value, 0.9)
    bank = {"country": 1.2, "arterial": 1.4, "suburb": 0.5}.get(kind.value, 0.12)
    wide = (2.4, 4.6) if kind is StreetKind.INNER_CITY else (1.5, 2.8)
    return SideProfile(
        median=median,
        lanes=lanes,
        lane=lane,
        shoulder=float(rng.uniform(0.25, 0.6) + (kind is StreetKind.ARTERIAL) * rng.choice([0.2, 1.6])),
        parking=float(rng.uniform(1.95, 2.3)) if rng.random() < parked else 0.0,
        verge=float(rng.uniform(0.8, 2.6)) if rng.random() < verged else 0.0,
        sidewalk=float(rng.uniform(*wide)) if rng.random() < walked else 0.0,
        kerb=kerb,
        bank=float(rng.normal(0.0, bank)),
        bank_width=float(rng.uniform(4.0, 9.0)),
        parking_texture=paving[0],
        sidewalk_texture=paving[1],
    )


STEP_M = 0.25
MAXIMUM_HEADING = 1.55  # rad; below 90 degrees the street can never cross itself
BEND_RADIUS_M = (55.0, 130.0)
CORNER_RADIUS_M = (9.0, 25.0)
RAMP = 0.3  # share of a bend over which its curvature grows, and again falls
FRAME_RATE_HZ = 10.0
FIRST_STAMP_NS = 1_700_000_000_000_000_000
SIDEWAYS_M_S2, SPEED_UP_M_S2, BRAKE_M_S2 = 2.2, 1.6, 2.4
STOP_SHARE = 0.5  # of the towns have stops
CREEP_M_S = 0.4  # slowest while moving: a stop is reached in finite time
FASTEST = 1.12  # times the profile's speed


@dataclass(frozen=True, eq=False)
class StreetLine:
    """A curve sampled every `STEP_M`; s is arc length on the map, d the distance to its left."""

    start: float  # arc length of the first sample, metres
    position: Doubles  # world x and y of the samples, [S, 2] metres
    heading: Doubles  # direction of the samples, counter-clockwise from world x, [S] radians
    height: Doubles  # world z of the samples, [S] metres

    @property
    def end(self) -> float:
        """Arc length of the last sample."""
        return self.start + STEP_M * (len(self.heading) - 1)

    @cached_property
    def knots(self) -> Doubles:
        """Arc lengths of the samples, [S] metres."""
        return self.start + STEP_M * np.arange(len(self.heading), dtype=np.float64)

    @cached_property
    def curvature(self) -> Doubles:
        """Change of heading per metre, [S], positive to the left."""
        return np.asarray(np.gradient(self.heading, STEP_M), dtype=np.float64)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.position)

    def heading_at(self, s: Doubles | float) -> Doubles:
        """Direction at arc length s, radians."""
        return np.asarray(np.interp(s, self.knots, self.heading))

    def height_at(self, s: Doubles | float) -> Doubles:
        """World z at arc length s, metres."""
        return np.asarray(np.interp(s, self.knots, self.height))

    def curvature_at(self, s: Doubles | float) -> Doubles:
        """Curvature at arc length s, 1/m."""
        return np.asarray(np.interp(s, self.knots, self.curvature))

    def sharpest(self, s: float, reach: float) -> float:
        """Largest absolute curvature within a reach of arc length s, 1/m."""
        low, high = np.searchsorted(self.knots, (s - reach, s + reach))
        return float(np.abs(self.curvature[low : max(high, low + 1)]).max(initial=0.0))

    def point(self, s: Doubles | float, d: Doubles | float) -> Doubles:
        """World x and y of street coordinates, [..., 2]."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        heading = self.heading_at(s)
        x = np.interp(s, self.knots, self.position[:, 0]) - d * np.sin(heading)
        y = np.interp(s, self.knots, self.position[:, 1]) + d * np.cos(heading)
        return np.stack([x, y], axis=-1)

    def nearest(self, xy: Doubles) -> tuple[Doubles, Doubles]:
        """Street coordinates s and d of world points [N, 2], by the nearest sample of the line."""
        distance, row = self._tree.query(xy)
        offset = xy - self.position[row]
        heading = self.heading[row]
        side = np.sign(offset[:, 1] * np.cos(heading) - offset[:, 0] * np.sin(heading))
        return self.knots[row], distance * side

    def smooth_height(self, xy: Doubles) -> Doubles:
        """Height of the street around world points [N, 2]: continuous also where the nearest sample jumps."""
        every = max(1, round(2.0 / STEP_M))
        coarse = self.position[::every]
        count = min(48, len(coarse))
        distance, row = cKDTree(coarse).query(xy, k=count)
        distance, row = distance.reshape(len(xy), count), row.reshape(len(xy), count)
        weight = np.exp(-(distance - distance[:, :1]) / 7.0)
        return np.asarray((weight * self.height[::every][row]).sum(axis=1) / weight.sum(axis=1))

    def between(self, start: float, end: float) -> "StreetLine":
        """The part within two arc lengths, as far as the line goes."""
        low, high = np.searchsorted(self.knots, (start - 1e-9, end + 1e-9))
        part = slice(low, high)
        return StreetLine(float(self.knots[low]), self.position[part], self.heading[part], self.height[part])


def make_street_line(
    rng: Random,
    start: float,
    end: float,
    *,
    corner_share: float = 0.0,  # share of the bends that are corners of about 90 degrees
    smallest_radius: float = CORNER_RADIUS_M[0],  # of a corner, metres: the street's inner edge needs room
    grade: float = 0.0,  # steepest slope
    crests: float = 0.0,  # steepest slope of the shorter crests and dips on it
) -> StreetLine:
    """Draw a street through the origin along x at s = 0, which then bends; a longer one starts like a shorter one."""
    phase = rng.uniform(0.0, 2.0 * np.pi, 2)
    wave = rng.uniform(160.0, 420.0, 2)
    knots = np.arange(start, end + STEP_M, STEP_M)
    curvature = np.zeros_like(knots)
    heading, s = 0.0, float(rng.uniform(8.0, 18.0))
    while s < end:
        corner = bool(rng.random() < corner_share)
        angle, radius, spacing, side = rng.uniform(size=4)
        sign = -1.0 if heading > 0.05 else 1.0 if heading < -0.05 else (1.0 if side < 0.5 else -1.0)
        if corner:
            radius = smallest_radius + radius * max(CORNER_RADIUS_M[1] - smallest_radius, 4.0)
            angle = 1.15 + 0.45 * angle
        else:
            radius = BEND_RADIUS_M[0] + radius * (BEND_RADIUS_M[1] - BEND_RADIUS_M[0])
            angle = 0.25 + 0.4 * angle
        angle = min(angle, MAXIMUM_HEADING - sign * heading)
        length = angle * radius / (1.0 - RAMP)
        curvature += sign / radius * _bend(knots, s, length)
        heading += sign * angle
        s += length + (30.0 + 30.0 * spacing if corner else 12.0 + 25.0 * spacing)
    directions = np.cumsum(curvature) * STEP_M
    directions -= np.interp(0.0, knots, directions)
    position = np.cumsum(STEP_M * np.stack([np.cos(directions), np.sin(directions)], axis=-1), axis=0)
    origin = [np.interp(0.0, knots, position[:, axis]) for axis in (0, 1)]
    height = _hills(knots, grade, wave, phase)
    if crests:
        waves = np.random.default_rng(int(1e6 * phase[0])).uniform((45.0, 80.0), (80.0, 150.0))
        height = height + _hills(knots, crests, waves, phase)
    height = height - np.interp(0.0, knots, height)
    return StreetLine(start, position - origin, directions, height)


def _hills(knots: Doubles, slope: float, waves: Doubles, phases: Doubles) -> Doubles:
    """Heights of waves of so many metres, the slope of each at most half of that."""
    pairs = zip(waves, phases, strict=True)
    return np.asarray(sum(0.5 * slope * w / (2 * np.pi) * np.sin(2 * np.pi * knots / w + p) for w, p in pairs))


def _bend(knots: Doubles, start: float, length: float) -> Doubles:
    """Curvature of a bend relative to its largest one: up, level, down."""
    phase = (knots - start) / length
    rise = np.clip(np.minimum(phase, 1.0 - phase) / RAMP, 0.0, 1.0)
    return np.asarray(np.sin(0.5 * np.pi * rise) ** 2)


def longest_drive(profile: StreetProfile, frames: int, rate_hz: float = FRAME_RATE_HZ) -> float:
    """Metres of street that a drive of this many frames can need."""
    return frames / rate_hz * profile.speed * FASTEST + 5.0


def drive_poses(
    line: StreetLine, profile: StreetProfile, frames: int, seed: int, rate_hz: float = FRAME_RATE_HZ
) -> list[RigidTransform]:
    """Poses `world_from_rig` along the rig's lane."""
    rng = np.random.default_rng([seed, 2])
    phase = rng.uniform(0.0, 2.0 * np.pi, 6)
    time = np.arange(frames) / rate_hz
    s = arc_lengths(line, profile, time, rng)
    sway = 0.12 * np.sin(0.07 * s + phase[1])
    d = profile.drive_offset + sway
    xy = line.point(s, d)
    # Away from the centre line of a bend the same change of sway takes another distance.
    along = np.maximum(1.0 - line.curvature_at(s) * d, 0.2)
    yaw = line.heading_at(s) + np.arctan(0.12 * 0.07 * np.cos(0.07 * s + phase[1]) / along)
    slope = np.arctan((line.height_at(s + 1.0) - line.height_at(s - 1.0)) / (2.0 * along))
    pitch = 0.004 * np.sin(6.3 * time + phase[2]) + 0.002 * np.sin(17.0 * time + phase[3]) - slope
    roll = 0.005 * np.sin(4.1 * time + phase[4])
    place = np.column_stack([xy, line.height_at(s) + 0.012 * np.sin(7.7 * time + phase[5])])
    return [RigidTransform(rotation_of_angles(roll[k], pitch[k], yaw[k]), place[k]) for k in range(frames)]


def arc_lengths(line: StreetLine, profile: StreetProfile, time: Doubles, rng: Random) -> Doubles:
    """Arc length at each time, seconds from the start."""
    knots = np.arange(0.0, line.end, STEP_M)
    offset = 1.0 - line.curvature_at(knots) * profile.drive_offset  # metres driven in the lane for a metre of the line
    bend = np.abs(line.curvature_at(knots)) / np.maximum(offset, 0.2)
    wave = 1.0 + 0.1 * np.sin(knots / 37.0 + rng.uniform(0.0, 6.28)) * np.sin(knots / 13.0)
    allowed = np.minimum(profile.speed * wave, np.sqrt(SIDEWAYS_M_S2 / np.maximum(bend, 1e-6)))
    stops = _draw_stops(rng, float(knots[-1]))
    rows = np.searchsorted(knots, [at for at, _ in stops])
    allowed[np.minimum(rows, len(knots) - 1)] = CREEP_M_S
    speed = _within_accelerations(allowed)
    moving = np.concatenate([[0.0], np.cumsum(STEP_M * offset[:-1] / (0.5 * (speed[1:] + speed[:-1])))])
    pauses = np.zeros_like(knots)
    for row, (_, pause) in zip(rows, stops, strict=True):
        pauses[row + 1 :] += pause
    clock = np.stack([moving + np.concatenate([[0.0], pauses[:-1]]), moving + pauses], axis=-1)
    return np.asarray(np.interp(time, clock.reshape(-1), np.repeat(knots, 2)))


def _draw_stops(rng: Random, length: float) -> list[tuple[float, float]]:
    stops = []
    at = float(rng.uniform(40.0, 250.0))
    stopping = bool(rng.random() < STOP_SHARE)
    while stopping and at < length:
        stops.append((at, float(rng.uniform(0.5, 2.0))))
        at += float(rng.uniform(120.0, 350.0))
    return stops


def _within_accelerations(allowed: Doubles) -> Doubles:
    """Highest speeds that neither brake nor speed up harder than comfortable."""
    square = allowed**2
    for k in range(len(square) - 2, -1, -1):
        square[k] = min(square[k], square[k + 1] + 2.0 * BRAKE_M_S2 * STEP_M)
    for k in range(1, len(square)):
        square[k] = min(square[k], square[k - 1] + 2.0 * SPEED_UP_M_S2 * STEP_M)
    return np.sqrt(square)


def stamps_ns(frames: int, rate_hz: float = FRAME_RATE_HZ) -> list[int]:
    """Time stamps of a drive's frames."""
    step = round(1e9 / rate_hz)
    return [FIRST_STAMP_NS + k * step for k in range(frames)]
