"""Colour of surface points: texture, dirt, sun with shadows, sky light, gloss and haze."""

import numpy as np

from scene_completion_training.arrays import Doubles, Floats, Ints
from scene_completion_worlds.street.kernels import GROUND, LEAF, WALL, compiled
from scene_completion_worlds.street.scene import OFFSET_M, Hits, RayScene, Scene
from scene_completion_worlds.street.sky import Sky
from scene_completion_worlds.street.street_line import GROUND_CLASSES, StreetClass
from scene_completion_worlds.street.textures import periodic_noise
from scene_completion_worlds.street.town import Town

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
        self._openness = GroundOpenness(scene, town)
        kind = np.zeros(len(scene.label), np.uint8)
        kind[np.isin(scene.label, GROUND_CLASSES)] = GROUND
        kind[scene.label == StreetClass.VEGETATION] = LEAF
        kind[np.isin(scene.label, (StreetClass.BUILDING, StreetClass.FENCE))] = WALL
        self._kind = kind

    def colour(self, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        """Linear colour [N, 3] of rays from one origin [3] with their hits; radians between rays: how sharp."""
        colour = np.empty((len(directions), 3), np.float32)
        colour[~hits.hit] = self._sky.radiance(directions[~hits.hit])
        rows = np.flatnonzero(hits.hit)
        if len(rows):
            colour[rows] = self._surface(origin, directions[rows], _taken(hits, rows), pixel_angle)
        return colour

    def _surface(self, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        scene, light = self._scene, self._daylight
        count, sun = len(directions), np.asarray(light.sun_direction, np.float32)
        point, normal, albedo = (np.empty((count, width), np.float32) for width in (3, 3, 4))
        lit, facing = np.empty((2, count), np.float32)
        compiled("surfaces")(
            origin, directions, hits.distance, hits.triangle, hits.weight_b, hits.weight_c, scene.uv, scene.normals,
            scene.texture, scene.tint, scene.texels_per_metre, self._kind, *scene.world.atlas.tables, self._dirt,
            DIRT_STRENGTH, np.float32(pixel_angle), sun, point, normal, albedo, lit, facing
        )  # fmt: skip
        sunny = np.flatnonzero(lit > 0)
        start = point[sunny] + normal[sunny] * OFFSET_M
        free = ~scene.rays.blocked(start, np.broadcast_to(sun, start.shape))
        direct = np.zeros(count, np.float32)
        direct[sunny] = lit[sunny] * free
        out = np.empty((count, 3), np.float32)
        compiled("lit")(
            directions, hits.distance, point, normal, albedo, direct, facing, self._kind[hits.triangle] == GROUND,
            self._openness.share, self._openness.corner, np.float32(GroundOpenness.CELL_M),
            light.sun_colour.astype(np.float32), self._sky.ambient, (0.85 * light.horizon).astype(np.float32),
            np.float32(light.haze_m), *self._sky.tables, out
        )  # fmt: skip
        return out


def _taken(hits: Hits, rows: Ints) -> Hits:
    return Hits(hits.distance[rows], hits.triangle[rows], hits.weight_b[rows], hits.weight_c[rows])


class GroundOpenness:
    """How much of the sky a spot of the ground sees past what stands within a few metres (ambient occlusion)."""

    CELL_M = 0.4
    ASIDE_M = 15.0
    REACH_M = 5.0
    RAYS = 16

    def __init__(self, scene: Scene, town: Town) -> None:
        line = town.plan.line
        s = np.arange(town.start, town.end, 0.6 * self.CELL_M)
        d = np.arange(-self.ASIDE_M, self.ASIDE_M, 0.6 * self.CELL_M)
        covered = line.point(s[:, None], d[None, :]).reshape(-1, 2)
        self.corner = covered.min(axis=0) - 2 * self.CELL_M  # world x and y of the first cell's corner
        index = np.floor((covered - self.corner) / self.CELL_M).astype(np.int64)
        shape = index.max(axis=0) + 3
        flat = np.unique(index[:, 0] * shape[1] + index[:, 1])
        x, y = np.divmod(flat, shape[1])
        centre = np.stack([x, y], axis=-1) * self.CELL_M + self.corner + self.CELL_M / 2
        self.share = np.ones(tuple(shape), np.float32)  # by cells [X, Y]; 1 away from the street
        self.share[x, y] = self._visible_share(scene.rays, scene.ground_rays, centre)

    def _visible_share(self, rays: RayScene, ground: RayScene, centre: Doubles) -> Floats:
        count = len(centre)
        above = np.concatenate([centre, np.full((count, 1), 50.0)], axis=-1).astype(np.float32)
        distance = ground.first_hits(above, np.broadcast_to(np.array([0, 0, -1], np.float32), above.shape)).distance
        height = 50.0 - np.where(np.isfinite(distance), distance, 50.0)
        origin = np.concatenate([centre, np.asarray(height, np.float64)[:, None] + 0.02], axis=-1).astype(np.float32)
        step = np.arange(self.RAYS)
        azimuth = step * 2.39996
        up = np.sqrt((step + 0.5) / self.RAYS)  # cosine-weighted
        flat = np.sqrt(1.0 - up**2)
        free = np.zeros(count, np.float32)
        reach = np.full(count, self.REACH_M, np.float32)
        for k in range(self.RAYS):
            direction = np.array([flat[k] * np.cos(azimuth[k]), flat[k] * np.sin(azimuth[k]), up[k]], np.float32)
            free += ~rays.blocked(origin, np.broadcast_to(direction, origin.shape), reach)
        return np.asarray(free / self.RAYS, np.float32)
