"""Colour of surface points: texture, dirt, sun with shadows, sky light, gloss and haze."""

from functools import cached_property

import numpy as np

from scene_completion_training.arrays import Doubles, Floats
from scene_completion_worlds.street.kernels import GROUND, LEAF, WALL, lit
from scene_completion_worlds.street.scene import OFFSET_M, Hits, Scene, Surfaces
from scene_completion_worlds.street.sky import Sky
from scene_completion_worlds.street.street_line import GROUND_CLASSES, StreetClass
from scene_completion_worlds.street.textures import periodic_noise
from scene_completion_worlds.street.town import Town

CELL_M, ASIDE_M, REACH_M, RAYS = 0.4, 15.0, 5.0, 16  # of the ground's openness
DIRT_TILE = 256
DIRT_STRENGTH = np.array(  # relative deviation of stains, patches and grain by kind of surface
    [(0.04, 0.03, 0.03), (0.13, 0.11, 0.10), (0.05, 0.10, 0.10), (0.09, 0.06, 0.05)], np.float32
)


class Shader:
    """Shades the first hits of rays in one town."""

    def __init__(self, scene: Scene, sky: Sky) -> None:
        town = scene.world
        assert isinstance(town, Town)
        self._scene, self._daylight, self._sky = scene, town.plan.daylight, sky
        self._dirt = periodic_noise(np.random.default_rng([town.plan.seed, 3]), DIRT_TILE, DIRT_TILE, 0.8)
        kind = np.zeros(len(scene.label), np.uint8)
        kind[np.isin(scene.label, GROUND_CLASSES)] = GROUND
        kind[scene.label == StreetClass.VEGETATION] = LEAF
        kind[np.isin(scene.label, (StreetClass.BUILDING, StreetClass.FENCE))] = WALL
        self._kind = kind

    @cached_property
    def _openness(self) -> tuple[Floats, Doubles]:
        """See `ground_openness`: only images need it, views and voxels do not."""
        assert isinstance(self._scene.world, Town)
        return ground_openness(self._scene, self._scene.world)

    def colour(self, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        """Linear colour [N, 3] of rays from one origin [3] with their hits; radians between rays: how sharp."""
        colour = np.empty((len(directions), 3), np.float32)
        colour[~hits.hit] = self._sky.radiance(directions[~hits.hit])
        rows = np.flatnonzero(hits.hit)
        if len(rows):
            colour[rows] = self._surface(origin, directions[rows], hits.of(rows), pixel_angle)
        return colour

    def _surface(self, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        scene, light, dirt = self._scene, self._daylight, (self._dirt, DIRT_STRENGTH)
        sun = np.asarray(light.sun_direction, np.float32)
        seen = Surfaces.of(scene, origin, directions, hits, pixel_angle, sun, self._kind, dirt)
        sunny = np.flatnonzero(seen.lit > 0)
        start = seen.point[sunny] + seen.normal[sunny] * OFFSET_M
        direct = np.zeros(len(directions), np.float32)
        direct[sunny] = seen.lit[sunny] * ~scene.rays.blocked(start, np.broadcast_to(sun, start.shape))
        out = np.empty(directions.shape, np.float32)
        lit(
            directions, hits.distance, seen.point, seen.normal, seen.albedo, direct, seen.facing,
            self._kind[hits.triangle] == GROUND, *self._openness, np.float32(CELL_M),
            light.sun_colour.astype(np.float32), self._sky.ambient, (0.85 * light.horizon).astype(np.float32),
            np.float32(light.haze_m), *self._sky.tables, out
        )  # fmt: skip
        return out


def ground_openness(scene: Scene, town: Town) -> tuple[Floats, Doubles]:
    """How much of the sky each cell of the ground sees past what stands within a few metres (ambient occlusion).

    Returns shares by cells [X, Y], 1 away from the street, and world x and y of the first cell's corner.
    """
    line = town.plan.line
    s = np.arange(town.start, town.end, 0.6 * CELL_M)
    d = np.arange(-ASIDE_M, ASIDE_M, 0.6 * CELL_M)
    covered = line.point(s[:, None], d[None, :]).reshape(-1, 2)
    corner = covered.min(axis=0) - 2 * CELL_M
    index = np.floor((covered - corner) / CELL_M).astype(np.int64)
    x, y = np.unique(index, axis=0).T
    centre = np.stack([x, y], axis=-1) * CELL_M + corner + CELL_M / 2
    above = np.insert(centre, 2, 50.0, axis=1).astype(np.float32)
    down = np.broadcast_to(np.array([0, 0, -1], np.float32), above.shape)
    distance = scene.ground_rays.first_hits(above, down).distance
    height = 50.0 - np.where(np.isfinite(distance), distance, 50.0)
    origin = np.insert(centre, 2, height.astype(np.float64) + 0.02, axis=1).astype(np.float32)
    step = np.arange(RAYS)
    azimuth, up = step * 2.39996, np.sqrt((step + 0.5) / RAYS)  # cosine-weighted
    flat = np.sqrt(1.0 - up**2)
    directions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), up], axis=-1).astype(np.float32)
    free, reach = np.zeros(len(centre), np.float32), np.full(len(centre), REACH_M, np.float32)
    for direction in directions:
        free += ~scene.rays.blocked(origin, np.broadcast_to(direction, origin.shape), reach)
    share = np.ones(tuple(index.max(axis=0) + 3), np.float32)
    share[x, y] = free / RAYS
    return share, corner
