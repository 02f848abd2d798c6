"""The ground: the street's strips in street coordinates, side streets, kerbs, and terrain on a grid around them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from scene_completion_training.arrays import Doubles, Mask, Reals
from scene_completion_worlds.street.parts import Part, quads
from scene_completion_worlds.street.street_line import StreetClass, StreetLine, StreetProfile, Strip
from scene_completion_worlds.street.textures import TextureAtlas

CELL_M = 1.0
BEYOND_M = (1.3, 2.6, 4.0)  # terrain that belongs to the street's own mesh, beyond its last strip
SUNK_BEYOND_M = 1.1  # up to here the terrain's grid lies under the street's mesh
SUNK_M, SKIRT_M = 0.7, 0.9
FINE_M, COARSE_M = 2.5, 10.0
FINE_REACH_M, REACH_M = 45.0, 230.0
ARM_M = 46.0
FIELDS = ("grass", "meadow", "field")


@dataclass(frozen=True)
class SideStreet:
    """A street that crosses or meets the main one at arc length s, where that is straight."""

    s: float
    half: float  # half the width of its asphalt, metres
    sidewalk: float
    left: float  # distance to which it reaches on the left of the main street, 0 for no arm
    right: float  # the same on the right
    zebra: bool  # whether pedestrians cross the main street before it

    def covers(self, s: float, side: int, margin: float = 0.0) -> bool:
        """Whether arc length s lies on its arm on a side (+1 left), or within the margin of it."""
        return self.reach(side) > 0.0 and abs(s - self.s) <= self.half + margin

    def reach(self, side: int) -> float:
        """How far the arm goes."""
        return self.left if side > 0 else self.right


def smoothstep(x: Reals) -> Doubles:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(np.asarray(x, np.float64), 0.0, 1.0)
    return np.asarray(x * x * (3.0 - 2.0 * x))


class Ground:
    """Shape of the ground along a street; the terrain undulates with four phases."""

    def __init__(self, line: StreetLine, profile: StreetProfile, sides: Sequence[SideStreet], phases: Doubles) -> None:
        self.line, self.profile, self.side_streets = line, profile, tuple(sides)
        self._phases = phases

    def height(self, s: float, d: float) -> float:
        """World z of the ground at street coordinates, metres."""
        side = self.profile.side(1 if d > 0 else -1)
        xy = self.line.point(s, d)[None]
        on_arm = any(street.covers(s, 1 if d > 0 else -1) for street in self.side_streets)
        over = self.strip(s, d).height if abs(d) < side.walk_edge else side.kerb * (not on_arm)
        return float(self.line.height_at(s) + over + self.rise(np.array([d]), xy)[0])

    def rise(self, d: Doubles, xy: Doubles) -> Doubles:
        """How far the terrain lies above its street at signed distances d [N] and world points [N, 2]."""
        total = np.zeros(len(d))
        for sign in (1, -1):
            side = self.profile.side(sign)
            beyond = sign * d - side.walk_edge
            bank = side.bank * smoothstep(beyond / side.bank_width)
            rolling = (0.2 + 0.25 * abs(side.bank)) * smoothstep((beyond - BEYOND_M[-1]) / 18.0)
            total += np.where(sign * d > 0, bank + rolling * self._waves(xy), 0.0)
        return total

    def on_arms(self, xy: Doubles, margin: float, *, shorter: float = 0.0) -> Mask:
        """Whether world points [N, 2] lie on an arm that is wider by a margin to both sides, and so much shorter."""
        found = np.zeros(len(xy), np.bool_)
        for street in self.side_streets:
            heading = float(self.line.heading_at(street.s))
            away = xy - self.line.point(street.s, 0.0)
            along = away @ np.array([np.cos(heading), np.sin(heading)])
            aside = away @ np.array([-np.sin(heading), np.cos(heading)])  # to the left of the main street
            near = np.abs(along) < street.half + street.sidewalk + margin
            found |= near & (aside < street.left - shorter) & (aside > shorter - street.right)
        return found

    def _waves(self, xy: Doubles) -> Doubles:
        x, y = xy[:, 0], xy[:, 1]
        a, b, c, d = self._phases
        short = np.sin(x / 11.0 + a) * np.sin(y / 9.0 + b)
        return np.asarray(short + 1.5 * np.sin(x / 37.0 + c) * np.sin(y / 31.0 + d))

    def strip(self, s: float, d: float) -> Strip:
        """The surface at street coordinates."""
        sign = 1 if d > 0 else -1
        side = self.profile.side(sign)
        distance = abs(d)
        for street in self.side_streets:
            if distance < side.road_edge and street.zebra and 0.8 < street.s - street.half - s < 4.0:
                return Strip(0.0, side.road_edge, f"crossing_{_name(sign)}", StreetClass.ROAD, 0.0)
            if distance < side.kerb_edge and (street.covers(s, 1) or street.covers(s, -1)):
                return Strip(0.0, side.kerb_edge, "asphalt", StreetClass.ROAD, 0.0)
            if street.covers(s, sign):
                return Strip(0.0, street.reach(sign), "asphalt", StreetClass.ROAD, 0.0)
            if street.covers(s, sign, street.sidewalk) and distance > side.kerb_edge:
                return Strip(0.0, street.reach(sign), side.sidewalk_texture, StreetClass.SIDEWALK, side.kerb)
        for strip in side.strips(f"road_{_name(sign)}"):
            if strip.inner <= distance < strip.outer:
                return strip
        return Strip(side.walk_edge, REACH_M, "grass", StreetClass.TERRAIN, side.kerb)


def _name(sign: int) -> str:
    return "left" if sign > 0 else "right"


# By texture and class: quads [Q, 4, 3] with texture coordinates [Q, 4, 2] in metres.
_Quads: TypeAlias = defaultdict[tuple[str, StreetClass], list[tuple[Doubles, Doubles]]]


def make_ground(ground: Ground, start: float, end: float, atlas: TextureAtlas) -> list[Part]:
    """Meshes of the ground between two arc lengths, one part for each texture and class."""
    found: _Quads = defaultdict(list)
    rows = np.arange(max(start, ground.line.start), min(end, ground.line.end) - CELL_M, CELL_M)
    for sign in (1, -1):
        _half_street(ground, rows, sign, found)
    _terrain(ground, ground.line.between(float(rows[0]), float(rows[-1])), found)
    parts = []
    for (texture, label), some in found.items():
        corners, metres = (np.concatenate(part) for part in zip(*some, strict=True))
        parts.append(quads(corners, metres / np.asarray(atlas.tile_m[texture]), texture, label, solid=False))
    return parts


def _half_street(ground: Ground, rows: Doubles, sign: int, found: _Quads) -> None:
    """Strips, arms of side streets and kerbs to one side of the centre line."""
    side = ground.profile.side(sign)
    inner = sorted({0.0, *(strip.outer for strip in side.strips("")), *(side.walk_edge + m for m in BEYOND_M)})
    arms = [street for street in ground.side_streets if street.reach(sign) > 0.0]
    edges = np.array(inner + [inner[-1] + step for step in np.arange(6.0, ARM_M - inner[-1], 6.0)])
    laid = [_strips(ground, float(s), sign, edges, len(inner), arms) for s in rows]
    # An arm that ends leaves strips of the row before without a neighbour: their edge is that of this row.
    ended = [before[len(row) :] for before, row in zip([[], *laid], laid, strict=False)]
    drawn = [[*row, *rest] for row, rest in zip(laid, ended, strict=True)]
    corners, metres = _cells(ground, rows, sign, edges, drawn)
    at = 0
    previous: list[Strip] = []
    near = [0, 3] if sign > 0 else [0, 1]
    outer = [3, 2] if sign > 0 else [1, 2]
    for row, rest in zip(laid, ended, strict=True):
        count = len(row)
        for k, strip in enumerate(row):
            cell = corners[at + k]
            found[strip.texture, strip.label].append((cell[None], metres[at + k, None]))
            _wall(cell[outer], strip, row[k + 1] if k + 1 < count else None, found)
            _wall(cell[near], strip, previous[k] if k < len(previous) else None, found)
        for k, strip in enumerate(rest, count):
            _wall(corners[at + k][near], strip, None, found)
        at += count + len(rest)
        previous = row


def _strips(ground: Ground, s: float, sign: int, edges: Doubles, inner: int, arms: Sequence[SideStreet]) -> list[Strip]:
    """Surfaces of a row of cells from the centre line outwards; beyond the inner edges only on the arm of a street."""
    middle = s + CELL_M / 2
    arm = any(street.covers(middle, sign, street.sidewalk + BEYOND_M[-1]) for street in arms)
    count = (len(edges) if arm else inner) - 1
    return [ground.strip(middle, sign * (edges[k] + edges[k + 1]) / 2) for k in range(count)]


def _cells(
    ground: Ground, rows: Doubles, sign: int, edges: Doubles, drawn: Sequence[Sequence[Strip]]
) -> tuple[Doubles, Doubles]:
    """Top faces of all cells, counter-clockwise from above: corners [N, 4, 3], texture metres [N, 4, 2]."""
    line = ground.line
    s = np.repeat(rows, [len(row) for row in drawn])[:, None]
    number = np.concatenate([np.arange(len(row)) for row in drawn])
    inner, outer = edges[number, None], edges[number + 1, None]
    height = np.array([strip.height for row in drawn for strip in row])
    if sign > 0:
        along, d = np.hstack([s, s + CELL_M, s + CELL_M, s]), np.hstack([inner, inner, outer, outer])
    else:
        along, d = np.hstack([s, s, s + CELL_M, s + CELL_M]), -np.hstack([inner, outer, outer, inner])
    bend = line.curvature_at(along)
    # Inside of a corner the strips end where they would turn over.
    room = np.where(bend * d > 0, 0.9 / np.maximum(np.abs(bend), 1e-6), np.inf)
    xy = line.point(along, np.clip(d, -room, room))
    rise = ground.rise(d.ravel(), xy.reshape(-1, 2)).reshape(d.shape)
    z = line.height_at(along) + height[:, None] + rise
    return np.concatenate([xy, z[..., None]], axis=-1), np.stack([np.abs(d), along], axis=-1)


def _wall(edge: Doubles, strip: Strip, other: Strip | None, found: _Quads) -> None:
    """Kerb between two strips, or the skirt that hides the gap to the terrain's grid."""
    if other is None:
        drop, texture, label = SKIRT_M, "grass", StreetClass.TERRAIN
    elif other.height != strip.height:
        drop = strip.height - other.height
        raised = strip if drop > 0 else other
        texture, label = "kerb", (StreetClass.SIDEWALK if raised.label != StreetClass.OTHER_GROUND else raised.label)
    else:
        return
    foot = edge - np.array([0.0, 0.0, drop])
    length = float(np.linalg.norm(edge[1] - edge[0]))
    metres = np.array([(0.0, 0.0), (length, 0.0), (length, abs(drop)), (0.0, abs(drop))])
    found[texture, label].append((np.array([[foot[0], foot[1], edge[1], edge[0]]]), metres[None]))


def _terrain(ground: Ground, line: StreetLine, found: _Quads) -> None:
    """A fine grid of terrain near the street and a coarse one farther out."""
    low = np.floor((line.position.min(axis=0) - REACH_M) / COARSE_M)
    high = np.ceil((line.position.max(axis=0) + REACH_M) / COARSE_M)
    corner = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    cells = corner.reshape(-1, 2) * COARSE_M
    _, d = line.nearest(cells + COARSE_M / 2)
    near, far = np.abs(d) < FINE_REACH_M, np.abs(d) < REACH_M
    offsets = np.stack(np.meshgrid(*(np.arange(0, COARSE_M, FINE_M),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    _grid_quads(ground, (cells[near][:, None] + offsets[None]).reshape(-1, 2), FINE_M, found)
    _grid_quads(ground, cells[far & ~near], COARSE_M, found)


def _grid_quads(ground: Ground, cells: Doubles, size: float, found: _Quads) -> None:
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
    xy = cells[:, None] + square[None]  # [C, 4, 2]
    # Neighbours share corners: each is computed once.
    key = np.rint(xy.reshape(-1, 2) / size).astype(np.int64)
    unique, inverse = np.unique(key, axis=0, return_inverse=True)
    points = np.asarray(unique * size, np.float64)
    height = terrain_height(ground, points)[inverse.reshape(-1)].reshape(len(cells), 4, 1)
    corners = np.concatenate([xy, height], axis=-1)
    field = np.floor((np.sin(cells[:, 0] / 61.0) + np.sin(cells[:, 1] / 47.0) + 2.0) * 1.7).astype(int) % len(FIELDS)
    for index, texture in enumerate(FIELDS):
        chosen = field == index if size > FINE_M else np.full(len(cells), index == 0)
        if chosen.any():
            found[texture, StreetClass.TERRAIN].append((corners[chosen], xy[chosen]))


def terrain_height(ground: Ground, points: Doubles) -> Doubles:
    """World z of the terrain's grid at points [N, 2]; it dives under the street's own mesh."""
    line = ground.line
    _, d = line.nearest(points)
    left = d > 0
    edge = np.where(left, ground.profile.left.walk_edge, ground.profile.right.walk_edge)
    kerb = np.where(left, ground.profile.left.kerb, ground.profile.right.kerb)
    height = line.smooth_height(points) + kerb + ground.rise(d, points) - 0.03
    sunk = (np.abs(d) < edge + SUNK_BEYOND_M) | ground.on_arms(points, SUNK_BEYOND_M, shorter=3.0)
    return np.where(sunk, height - SUNK_M, height)
