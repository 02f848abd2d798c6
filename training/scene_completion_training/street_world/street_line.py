"""The centre line of the street by arc length, with bends, corners and slopes; and how the rig moves along it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_training.arrays import Doubles, Random
from scene_completion_training.street_world.camera_rig import rotation
from scene_completion_training.street_world.street_profile import StreetProfile

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
    # Beside the centre line of a bend the same change of sway takes another distance.
    along = np.maximum(1.0 - line.curvature_at(s) * d, 0.2)
    yaw = line.heading_at(s) + np.arctan(0.12 * 0.07 * np.cos(0.07 * s + phase[1]) / along)
    slope = np.arctan((line.height_at(s + 1.0) - line.height_at(s - 1.0)) / (2.0 * along))
    pitch = 0.004 * np.sin(6.3 * time + phase[2]) + 0.002 * np.sin(17.0 * time + phase[3]) - slope
    roll = 0.005 * np.sin(4.1 * time + phase[4])
    z = line.height_at(s) + 0.012 * np.sin(7.7 * time + phase[5])
    place = np.column_stack([xy, z])
    return [RigidTransform(rotation(yaw[k], pitch[k], roll[k]), place[k]) for k in range(frames)]


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
