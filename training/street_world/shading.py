"""Colour of surface points: texture, sun with shadows, sky light, gloss and haze."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.street_world.classes import StreetClass
from training.street_world.scene import GROUND_CLASSES, OFFSET_M, Hits, RayScene, StreetScene
from training.street_world.sky import Sky
from training.street_world.textures import periodic_noise

Floats = NDArray[np.float32]

EXPOSURE = 0.78
PATCH_TILE, PATCH_M = 256, 0.16  # large-scale dirt on the ground: texels and metres a texel


class Shader:
    """Shades the first hits of rays in one town.

    Args:
        scene: The town.
    """

    def __init__(self, scene: StreetScene) -> None:
        self._scene = scene
        self._daylight = scene.town.daylight
        self.sky = Sky(self._daylight)
        rng = np.random.default_rng([scene.town.seed, 3])
        self._patches = (1.0 + 0.10 * periodic_noise(rng, PATCH_TILE, PATCH_TILE, 1.0)).astype(np.float32)
        self._openness = GroundOpenness(scene)
        self._is_ground = np.isin(scene.label, GROUND_CLASSES)
        self._is_leaf = scene.label == StreetClass.VEGETATION

    def colour(self, origins: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        """Linear colour [N, 3] of rays with their first hits.

        Args:
            pixel_angle: Angle between neighbouring rays, radians; chooses the texture's sharpness.
        """
        colour = np.empty((len(directions), 3), np.float32)
        colour[~hits.hit] = self.sky.radiance(directions[~hits.hit])
        rows = np.flatnonzero(hits.hit)
        if len(rows):
            surface = self._surface(origins[rows], directions[rows], _taken(hits, rows), pixel_angle)
            clear = np.exp(-hits.distance[rows] / self._daylight.haze_m).astype(np.float32)[:, None]
            air = np.asarray(self._daylight.horizon, np.float32) * 0.85
            colour[rows] = surface * clear + air * (1 - clear)
        return colour

    def _surface(self, origins: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        scene, light = self._scene, self._daylight
        triangle = hits.triangle
        b, c = hits.weight_b[:, None], hits.weight_c[:, None]
        a = 1.0 - b - c
        uv, normals = scene.uv[triangle], scene.normals[triangle]
        normal = a * normals[:, 0] + b * normals[:, 1] + c * normals[:, 2]
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        facing = np.einsum("ij,ij->i", normal, directions)
        normal = np.where(facing[:, None] > 0, -normal, normal)  # faces are seen from both sides
        point = origins + directions * hits.distance[:, None]

        # The patch a pixel covers is stretched by 1/cosine; the geometric mean keeps flat views from blurring away.
        stretch = 1.0 / np.sqrt(np.maximum(np.abs(facing), 0.02))
        footprint = hits.distance * pixel_angle * stretch * scene.texels_per_metre[triangle]
        texel = scene.atlas.sample(scene.texture[triangle], a * uv[:, 0] + b * uv[:, 1] + c * uv[:, 2], footprint)
        albedo = texel[:, :3] * scene.tint[triangle]
        ground = self._is_ground[triangle]
        cell = np.floor(point[:, :2] / PATCH_M).astype(np.int32).T & (PATCH_TILE - 1)
        albedo *= np.where(ground, self._patches[cell[1], cell[0]], 1.0)[:, None]
        openness = np.where(ground, self._openness.at(point), 1.0)[:, None].astype(np.float32)

        sun = np.asarray(light.sun_direction, np.float32)
        cosine = normal @ sun
        leaf = self._is_leaf[triangle]
        lit = np.where(leaf, 0.25 + 0.75 * cosine, cosine)  # light shines through leaves
        sunny = np.flatnonzero(lit > 0)
        start = point[sunny] + normal[sunny] * OFFSET_M
        free = ~scene.rays.blocked(start, np.broadcast_to(sun, start.shape))
        direct = np.zeros(len(triangle), np.float32)
        direct[sunny] = lit[sunny] * free
        up = (0.5 + 0.5 * normal[:, 2:]).astype(np.float32)
        ambient = self.sky.ambient * (0.25 + 0.75 * up) * openness + 0.12 * (1 - up) * light.sun_colour
        # What cannot see the sky, low under roofs and crowns, still gets a little.
        colour = albedo * (direct[:, None] * light.sun_colour + 0.6 * ambient)
        return self._add_reflection(colour.astype(np.float32), texel[:, 3], directions, normal, np.abs(facing))

    def _add_reflection(
        self, colour: Floats, gloss: Floats, directions: Floats, normal: Floats, cosine: Floats
    ) -> Floats:
        rows = np.flatnonzero(gloss > 0.02)
        if len(rows) == 0:
            return colour
        mirrored = directions[rows] + 2.0 * cosine[rows, None] * normal[rows]
        seen = self.sky.radiance(mirrored)
        below = np.clip(0.5 - 4.0 * mirrored[:, 2:], 0.0, 1.0)  # the street reflected instead of the sky
        seen = np.asarray(seen * (1 - below) + 0.10 * below, np.float32)
        share = (gloss[rows] * (0.22 + 0.78 * (1.0 - cosine[rows]) ** 4))[:, None]
        colour[rows] = colour[rows] * (1 - share) + seen * share
        return colour


def _taken(hits: Hits, rows: NDArray[np.int64]) -> Hits:
    return Hits(hits.distance[rows], hits.triangle[rows], hits.weight_b[rows], hits.weight_c[rows])


class GroundOpenness:
    """How much of the sky a spot of the ground sees past what stands within a few metres (ambient occlusion)."""

    CELL_M = 0.3
    ASIDE_M = 15.0
    REACH_M = 5.0
    RAYS = 24

    def __init__(self, scene: StreetScene) -> None:
        line = scene.town.line
        s = np.arange(line.start, line.end, 0.6 * self.CELL_M)
        d = np.arange(-self.ASIDE_M, self.ASIDE_M, 0.6 * self.CELL_M)
        covered = line.point(s[:, None], d[None, :]).reshape(-1, 2)
        self._origin = covered.min(axis=0) - 2 * self.CELL_M
        index = np.floor((covered - self._origin) / self.CELL_M).astype(np.int64)
        shape = index.max(axis=0) + 3
        flat = np.unique(index[:, 0] * shape[1] + index[:, 1])
        x, y = np.divmod(flat, shape[1])
        centre = np.stack([x, y], axis=-1) * self.CELL_M + self._origin + self.CELL_M / 2
        self._map = np.ones(tuple(shape), np.float32)
        self._map[x, y] = self._visible_share(scene.rays, scene.ground_rays, centre)

    def _visible_share(self, rays: RayScene, ground: RayScene, centre: NDArray[np.float64]) -> Floats:
        count = len(centre)
        above = np.concatenate([centre, np.full((count, 1), 50.0)], axis=-1).astype(np.float32)
        height = (
            50.0 - ground.first_hits(above, np.broadcast_to(np.array([0, 0, -1], np.float32), above.shape)).distance
        )
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

    def at(self, point: Floats) -> Floats:
        """Share of the sky seen from ground points [N, 3], interpolated; 1 away from the street."""
        place = (point[:, :2] - self._origin) / self.CELL_M - 0.5
        place = np.clip(place, 0.0, np.array(self._map.shape) - 1.001)
        corner = place.astype(np.int64)
        fx, fy = (place - corner).T
        i, j = corner.T
        low = self._map[i, j] * (1 - fy) + self._map[i, j + 1] * fy
        high = self._map[i + 1, j] * (1 - fy) + self._map[i + 1, j + 1] * fy
        return np.asarray(low * (1 - fx) + high * fx, np.float32)


def tone_mapped(linear: Floats) -> NDArray[np.uint8]:
    """Display colours of linear light: exposure, a soft shoulder, sRGB."""
    from training.street_world.texture_atlas import linear_to_srgb

    exposed = EXPOSURE * linear
    shoulder = np.where(exposed < 0.6, exposed, 1.0 - 0.4 * np.exp(-(exposed - 0.6) / 0.4))
    return np.asarray(np.rint(255.0 * linear_to_srgb(shoulder)), np.uint8)
