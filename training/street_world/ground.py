"""The ground: cells in street coordinates, each with a height and a surface, and kerbs between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.street_world.classes import StreetClass
from training.street_world.parts import Part, quads
from training.street_world.street_line import StreetLine
from training.street_world.texture_atlas import TextureAtlas

LANE_M = 3.25
PARKING_M = 2.1
SIDEWALK_M = 2.6
KERB_M = 0.12
ROAD_EDGE = LANE_M  # the |d| where surfaces change
KERB_EDGE = ROAD_EDGE + PARKING_M
WALK_EDGE = KERB_EDGE + SIDEWALK_M
FAR_EDGE = 58.0
SIDE_STREET_M = 7.0
CELL_M = 1.0


@dataclass(frozen=True)
class SideStreet:
    """A street that crosses the main one at arc length s."""

    s: float

    def covers(self, s: float, margin: float = 0.0) -> bool:
        """Whether arc length s lies on it, or within the margin of it."""
        return abs(s - self.s) <= SIDE_STREET_M / 2 + margin


@dataclass(frozen=True)
class _Surface:
    texture: str
    label: StreetClass
    height: float


ROAD = _Surface("road", StreetClass.ROAD, 0.0)
CROSSING = _Surface("crossing", StreetClass.ROAD, 0.0)
ASPHALT = _Surface("asphalt", StreetClass.ROAD, 0.0)
PARKING = _Surface("parking", StreetClass.PARKING, 0.0)
SIDEWALK = _Surface("sidewalk", StreetClass.SIDEWALK, KERB_M)
TERRAIN = _Surface("grass", StreetClass.TERRAIN, KERB_M)

BREAKS = np.array(
    [-FAR_EDGE, -34.0, -20.0, -12.0, -WALK_EDGE, -KERB_EDGE, -ROAD_EDGE, ROAD_EDGE, KERB_EDGE, WALK_EDGE, 12.0, 20.0]
    + [34.0, FAR_EDGE]
)


def ground_height(line_s: float, d: float, side_streets: list[SideStreet]) -> float:
    """Height of the ground at street coordinates, metres."""
    column = int(np.clip(np.searchsorted(BREAKS, d) - 1, 0, len(BREAKS) - 2))
    return _surface(line_s, column, side_streets).height


def _surface(s: float, column: int, side_streets: list[SideStreet]) -> _Surface:
    middle = abs(0.5 * (BREAKS[column] + BREAKS[column + 1]))
    for street in side_streets:
        if middle < ROAD_EDGE and 0.0 < street.s - SIDE_STREET_M / 2 - s < 3.0:
            return CROSSING
        if street.covers(s):
            return ASPHALT
        if middle > ROAD_EDGE and street.covers(s, SIDEWALK_M) and middle > KERB_EDGE:
            return SIDEWALK
    if middle < ROAD_EDGE:
        return ROAD
    if middle < KERB_EDGE:
        return PARKING
    return SIDEWALK if middle < WALK_EDGE else TERRAIN


def make_ground(line: StreetLine, side_streets: list[SideStreet], atlas: TextureAtlas) -> list[Part]:
    """Top faces and kerbs of all cells, one part per class, and the plain around the town."""
    rows = np.arange(line.start, line.end, CELL_M)
    grid = [[_surface(s + CELL_M / 2, column, side_streets) for column in range(len(BREAKS) - 1)] for s in rows]
    corners: dict[_Surface, list[NDArray[np.float64]]] = {}
    coordinates: dict[_Surface, list[NDArray[np.float64]]] = {}

    def add(surface: _Surface, quad: NDArray[np.float64], uv: NDArray[np.float64]) -> None:
        corners.setdefault(surface, []).append(quad)
        coordinates.setdefault(surface, []).append(uv / np.asarray(atlas.tile_m[surface.texture]))

    for row, s in enumerate(rows):
        for column in range(len(BREAKS) - 1):
            surface = grid[row][column]
            right, left = BREAKS[column], BREAKS[column + 1]
            quad, uv = _top(line, s, right, left, surface.height)
            if surface in (ROAD, CROSSING):
                uv[:, 0] += ROAD_EDGE  # the tile spans the road
            elif surface is PARKING:
                uv[:, 0] -= min(abs(right), abs(left))
            add(surface, quad, uv)
            if column + 1 < len(BREAKS) - 1:
                other = grid[row][column + 1]
                if other.height != surface.height:
                    add(SIDEWALK, *_kerb(line, (s, s + CELL_M), (left, left), surface.height, other.height))
            if row + 1 < len(rows):
                other = grid[row + 1][column]
                if other.height != surface.height:
                    ends = (s + CELL_M, s + CELL_M)
                    add(SIDEWALK, *_kerb(line, ends, (right, left), surface.height, other.height))
    parts = [
        quads(np.array(corners[surface]), np.array(coordinates[surface]), surface.texture, surface.label, solid=False)
        for surface in corners
    ]
    return [*parts, _plain(line)]


def _top(
    line: StreetLine, s: float, right: float, left: float, height: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    along = np.array([s, s, s + CELL_M, s + CELL_M])
    across = np.array([left, right, right, left])
    quad = np.concatenate([line.point(along, across), np.full((4, 1), height)], axis=-1)
    return quad, np.stack([-across, along], axis=-1)


def _kerb(
    line: StreetLine, s: tuple[float, float], d: tuple[float, float], first: float, second: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = min(first, second), max(first, second)
    foot = line.point(np.array(s), np.array(d))
    quad = np.array([(*foot[0], low), (*foot[1], low), (*foot[1], high), (*foot[0], high)])
    return quad, np.array([(s[0] + d[0], 0.0), (s[1] + d[1], 0.0), (s[1] + d[1], 0.15), (s[0] + d[0], 0.15)])


def _plain(line: StreetLine) -> Part:
    """Meadow out to the horizon, a little below the street's own cells."""
    centre = line.position.mean(axis=0)
    reach = 400.0 + np.abs(line.position - centre).max()
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * reach + centre
    quad = np.concatenate([square, np.full((4, 1), -0.06)], axis=-1)
    part = quads(quad[None], square[None] / 4.0, "grass", StreetClass.TERRAIN, solid=False)
    return replace(part, tint=(0.9, 0.95, 0.85))
