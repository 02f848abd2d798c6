"""Placing things along a stretch of a street: on the ground, clear of lanes and of each other."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from scene_completion_training.arrays import Doubles, Random
from scene_completion_worlds.street.ground import Ground
from scene_completion_worlds.street.parts import Part, moved_all, triple
from scene_completion_worlds.street.street_objects import bush, conifer, tree

SECTION_M = 80.0  # stretch of a street or of its traffic that is made from a seed of its own
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
        _, away = self.line.nearest(footprint)
        edge = np.where(away > 0, self.profile.left.walk_edge, self.profile.right.walk_edge)
        taken = np.array(self.taken or [(1e9, 1e9, 0.0)])
        apart = np.linalg.norm(footprint[:, None] - taken[None, :, :2], axis=-1) - taken[None, :, 2]
        if ((np.abs(away) < edge + margin) | self.ground.on_arms(footprint, margin)).any() or (apart < 0.6).any():
            return False
        self.taken += [(float(x), float(y), 0.6) for x, y in footprint]
        self.parts += moved
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
