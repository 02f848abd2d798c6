"""Light in rooms: lamps and windows with soft shadows, and what walls throw back, less in corners."""

import zlib

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from scene_completion_ros.geometry import VoxelGrid
from scene_completion_training.room_world.plan import FloorPlan, Light
from scene_completion_training.street_world.ground_truth import most_surface
from scene_completion_training.street_world.kernels import compiled
from scene_completion_training.street_world.scene import OFFSET_M, Hits, Scene
from scene_completion_training.street_world.textures import periodic_noise

Floats = NDArray[np.float32]
CELL_M = 0.1  # of the grid that knows how crowded a place is
CROWD_M = 0.22  # standard deviation of the blur that makes it so
AHEAD_M = 0.2  # how far before a surface it is looked up
DARKNESS = 2.2  # how much darker a crowded place is
BOUNCED = 0.3  # of the direct light of a room comes back from its walls
GLOWING = {"view": 2.5, "screen": 0.25}  # light of textures that are lights themselves
_DIRT = np.array([(0.03, 0.04, 0.03)] * 4, np.float32)


class RoomShader:
    """Shades the first hits of rays in one floor plan; what is random in shadows follows from plan and rays alone."""

    def __init__(self, scene: Scene) -> None:
        plan = scene.world
        assert isinstance(plan, FloorPlan)
        self._scene, self._plan = scene, plan
        self._dirt = periodic_noise(np.random.default_rng([plan.seed, 23]), 256, 256, 0.8)
        self._kind = np.zeros(len(scene.label), np.uint8)
        glow = np.array([GLOWING.get(name, 0.0) for name in plan.atlas.names], np.float32)
        self._glow = glow[scene.texture]
        x0, x1, y0, y1 = plan.outline
        shape = [int(np.ceil(length / CELL_M)) + 2 for length in (x1 - x0, y1 - y0, plan.height)]
        self._grid = VoxelGrid((x0 - CELL_M, y0 - CELL_M, -CELL_M), CELL_M, (shape[0], shape[1], shape[2]))
        filled = most_surface(scene.corners.astype(np.float64), np.ones(len(scene.corners), np.uint8), self._grid) > 0
        self._crowd = gaussian_filter(filled.astype(np.float32), CROWD_M / CELL_M, mode="nearest")
        self._ambient = self._room_light()

    def _room_light(self) -> Floats:
        """Light that comes from all sides, in each room [R, 3], and between rooms."""
        plan = self._plan
        total = np.full((len(plan.rooms) + 1, 3), 0.02)
        for light in plan.lights:
            x, y, _ = light.place
            room = int(plan.room_at(np.array(x), np.array(y)))
            area = plan.rooms[room].area if room >= 0 else 10.0
            total[room] += BOUNCED * np.asarray(light.colour) / np.sqrt(area)
        mean = total[:-1].mean(axis=0)
        total[:-1] += 0.15 * mean
        total[-1] = mean
        return total.astype(np.float32)

    def colour(self, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float) -> Floats:
        """Linear colour [N, 3] of rays from one origin [3] with their first hits; radians between rays."""
        out = np.zeros((len(directions), 3), np.float32)
        rows = np.flatnonzero(hits.hit)
        if not len(rows):
            return out
        scene, count = self._scene, len(rows)
        triangle = hits.triangle[rows]
        point, normal, albedo = (np.empty((count, width), np.float32) for width in (3, 3, 4))
        lit, facing = np.empty((2, count), np.float32)
        up = np.array([0.0, 0.0, 1.0], np.float32)
        compiled("surfaces")(
            origin, directions[rows], hits.distance[rows], triangle, hits.weight_b[rows], hits.weight_c[rows], scene.uv,
            scene.normals, scene.texture, scene.tint, scene.texels_per_metre, self._kind, *scene.world.atlas.tables,
            self._dirt, _DIRT, np.float32(pixel_angle), up, point, normal, albedo, lit, facing
        )  # fmt: skip
        room = self._plan.room_at(point[:, 0], point[:, 1])
        light = self._ambient[room] * self._openness(point, normal)[:, None] * (0.85 + 0.15 * normal[:, 2:])
        some = np.concatenate([origin[None], directions[:: max(1, len(directions) // 8)]])
        rng = np.random.default_rng([self._plan.seed, zlib.crc32(some.astype(np.float32).tobytes())])
        for lamp in self._plan.lights:
            self._add_lamp(rng, light, lamp, point, normal)
        glow = self._glow[triangle][:, None]
        shine = 0.3 * albedo[:, 3:] * (1.0 - facing[:, None]) ** 3 * light.mean(axis=1, keepdims=True)
        glowing = albedo[:, :3] * glow * (0.3 + self._plan.daylight)
        out[rows] = np.where(glow > 0.0, glowing, albedo[:, :3] * light + shine)
        return out

    def _openness(self, point: Floats, normal: Floats) -> Floats:
        """How much of the light from all sides a place gets [N]."""
        index, _ = self._grid.index_of(point + AHEAD_M * normal)
        i, j, k = np.clip(np.asarray(index), 0, np.asarray(self._grid.shape) - 1).T
        return np.asarray(np.exp(-DARKNESS * self._crowd[i, j, k]), np.float32)

    def _add_lamp(self, rng: np.random.Generator, light: Floats, lamp: Light, point: Floats, normal: Floats) -> None:
        spot = np.asarray(lamp.place, np.float32) + lamp.size * rng.uniform(-1.0, 1.0, point.shape).astype(np.float32)
        towards = spot - point
        distance = np.maximum(np.linalg.norm(towards, axis=1), 1e-3)
        towards /= distance[:, None]
        cosine = (towards * normal).sum(axis=1)
        strength = cosine / (distance**2 + 0.25)
        rows = np.flatnonzero((cosine > 0.0) & (strength > 0.004))
        if len(rows):
            start = point[rows] + normal[rows] * OFFSET_M
            free = ~self._scene.rays.blocked(start, towards[rows], distance[rows] - 0.06)
            light[rows] += np.asarray(lamp.colour, np.float32) * (strength[rows] * free)[:, None]
