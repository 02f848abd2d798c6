"""The centre line of the street: straight pieces and gentle bends, by arc length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP_M = 0.25
MAXIMUM_HEADING = 0.75  # rad; below 90 degrees the street can never cross itself
BEND_RADIUS_M = (75.0, 130.0)


@dataclass(frozen=True, eq=False)
class StreetLine:
    """A plane curve sampled every `STEP_M`; s is arc length, d the distance to its left.

    Args:
        start: Arc length of the first sample, metres.
        position: World x and y of the samples, [S, 2] metres.
        heading: Direction of the samples, counter-clockwise from world x, [S] radians.
    """

    start: float
    position: Floats
    heading: Floats

    @property
    def end(self) -> float:
        """Arc length of the last sample."""
        return self.start + STEP_M * (len(self.heading) - 1)

    def heading_at(self, s: Floats | float) -> Floats:
        """Direction at arc length s, radians."""
        knots = self.start + STEP_M * np.arange(len(self.heading))
        return np.asarray(np.interp(s, knots, self.heading))

    def point(self, s: Floats | float, d: Floats | float) -> Floats:
        """World x and y of street coordinates, [..., 2]."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        knots = self.start + STEP_M * np.arange(len(self.heading))
        heading = self.heading_at(s)
        x = np.interp(s, knots, self.position[:, 0]) - d * np.sin(heading)
        y = np.interp(s, knots, self.position[:, 1]) + d * np.cos(heading)
        return np.stack([x, y], axis=-1)


def make_street_line(rng: np.random.Generator, start: float, end: float) -> StreetLine:
    """Draw a street that passes the world origin along x at s = 0 and bends gently, left and right, after it."""
    knots = np.arange(start, end + STEP_M, STEP_M)
    curvature = np.zeros_like(knots)
    heading, s = 0.0, float(rng.uniform(4.0, 10.0))
    while s < end:
        radius = rng.uniform(*BEND_RADIUS_M)
        angle = rng.uniform(0.25, 0.6)
        sign = -1.0 if heading > 0 else 1.0 if heading < 0 else rng.choice([-1.0, 1.0])
        angle = min(angle, MAXIMUM_HEADING - sign * heading)
        length = 1.5 * radius * angle  # the sine-squared bump below has mean height 2/3 of a plateau this long
        phase = np.clip((knots - s) / length, 0.0, 1.0)
        curvature += sign * angle / length * 2.0 * np.sin(np.pi * phase) ** 2
        heading += sign * angle
        s += length + rng.uniform(12.0, 35.0)
    directions = np.cumsum(curvature) * STEP_M
    directions -= np.interp(0.0, knots, directions)
    steps = STEP_M * np.stack([np.cos(directions), np.sin(directions)], axis=-1)
    position = np.cumsum(steps, axis=0)
    origin = [np.interp(0.0, knots, position[:, axis]) for axis in (0, 1)]
    return StreetLine(start, position - origin, directions)
