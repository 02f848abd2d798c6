"""The centre line of the street by arc length: straight pieces, gentle bends, corners and slopes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

STEP_M = 0.25
MAXIMUM_HEADING = 1.55  # rad; below 90 degrees the street can never cross itself
BEND_RADIUS_M = (55.0, 130.0)
CORNER_RADIUS_M = (9.0, 25.0)
RAMP = 0.3  # share of a bend over which its curvature grows, and again falls


@dataclass(frozen=True, eq=False)
class StreetLine:
    """A curve sampled every `STEP_M`; s is arc length on the map, d the distance to its left."""

    start: float  # arc length of the first sample, metres
    position: Floats  # world x and y of the samples, [S, 2] metres
    heading: Floats  # direction of the samples, counter-clockwise from world x, [S] radians
    height: Floats  # world z of the samples, [S] metres

    @property
    def end(self) -> float:
        """Arc length of the last sample."""
        return self.start + STEP_M * (len(self.heading) - 1)

    @cached_property
    def knots(self) -> Floats:
        """Arc lengths of the samples, [S] metres."""
        return self.start + STEP_M * np.arange(len(self.heading), dtype=np.float64)

    @cached_property
    def curvature(self) -> Floats:
        """Change of heading per metre, [S], positive to the left."""
        return np.asarray(np.gradient(self.heading, STEP_M), dtype=np.float64)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.position)

    def heading_at(self, s: Floats | float) -> Floats:
        """Direction at arc length s, radians."""
        return np.asarray(np.interp(s, self.knots, self.heading))

    def height_at(self, s: Floats | float) -> Floats:
        """World z at arc length s, metres."""
        return np.asarray(np.interp(s, self.knots, self.height))

    def curvature_at(self, s: Floats | float) -> Floats:
        """Curvature at arc length s, 1/m."""
        return np.asarray(np.interp(s, self.knots, self.curvature))

    def sharpest(self, s: float, reach: float) -> float:
        """Largest absolute curvature within a reach of arc length s, 1/m."""
        low, high = np.searchsorted(self.knots, (s - reach, s + reach))
        return float(np.abs(self.curvature[low : max(high, low + 1)]).max(initial=0.0))

    def point(self, s: Floats | float, d: Floats | float) -> Floats:
        """World x and y of street coordinates, [..., 2]."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        heading = self.heading_at(s)
        x = np.interp(s, self.knots, self.position[:, 0]) - d * np.sin(heading)
        y = np.interp(s, self.knots, self.position[:, 1]) + d * np.cos(heading)
        return np.stack([x, y], axis=-1)

    def nearest(self, xy: Floats) -> tuple[Floats, Floats]:
        """Street coordinates s and d of world points [N, 2], by the nearest sample of the line."""
        distance, row = self._tree.query(xy)
        offset = xy - self.position[row]
        heading = self.heading[row]
        side = np.sign(offset[:, 1] * np.cos(heading) - offset[:, 0] * np.sin(heading))
        return self.knots[row], distance * side

    def smooth_height(self, xy: Floats) -> Floats:
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
        return StreetLine(
            float(self.knots[low]), self.position[low:high], self.heading[low:high], self.height[low:high]
        )


def make_street_line(
    rng: np.random.Generator,
    start: float,
    end: float,
    *,
    corner_share: float = 0.0,  # share of the bends that are corners of about 90 degrees
    smallest_radius: float = CORNER_RADIUS_M[0],  # of a corner, metres: the street's inner edge needs room
    grade: float = 0.0,  # steepest slope
    crests: float = 0.0,  # steepest slope of the shorter crests and dips on it
) -> StreetLine:
    """Draw a street that passes the world origin along x at s = 0 and bends left and right after it.

    A longer street starts like a shorter one of the same generator.
    """
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
    height = sum(
        0.5 * grade * w / (2 * np.pi) * np.sin(2 * np.pi * knots / w + p) for w, p in zip(wave, phase, strict=True)
    )
    if crests:
        waves = np.random.default_rng(int(1e6 * phase[0])).uniform((45.0, 80.0), (80.0, 150.0))
        height = height + sum(
            0.5 * crests * w / (2 * np.pi) * np.sin(2 * np.pi * knots / w + p)
            for w, p in zip(waves, phase, strict=True)
        )
    height = np.asarray(height) - np.interp(0.0, knots, np.asarray(height))
    return StreetLine(start, position - origin, directions, height)


def _bend(knots: Floats, start: float, length: float) -> Floats:
    """Curvature of a bend relative to its largest one: up, level, down."""
    phase = (knots - start) / length
    rise = np.clip(np.minimum(phase, 1.0 - phase) / RAMP, 0.0, 1.0)
    return np.asarray(np.sin(0.5 * np.pi * rise) ** 2)
