"""Walks through rooms with a small robot's level camera or one in a hand; and the light there: lamps and windows."""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from scene_completion_ros.evaluation.semantic_classes import ROOM_CLASSES, ROOM_IDS
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.grids import ROOM_GRID
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.sequences.posed_sequence import ROOMS
from scene_completion_training.arrays import Doubles, Floats, Random
from scene_completion_worlds.room.plan import FloorPlan, Light, Room, overlap
from scene_completion_worlds.street.drive import RenderedDrive
from scene_completion_worlds.street.ground_truth import most_surface, voxel_truth
from scene_completion_worlds.street.scene import OFFSET_M, Hits, Renderer, Scene, Surfaces, build_scene
from scene_completion_worlds.street.street_line import stamps_ns
from scene_completion_worlds.street.textures import periodic_noise

CAMERA = "camera"
CARRIERS = ("robot", "hand")
ROBOT_HEIGHT_M, ROBOT_PITCH = (0.15, 0.7), (-0.06, 0.3)
HAND_HEIGHT_M, HAND_PITCH, HAND_ROLL = (1.1, 1.7), (0.0, 0.61), 0.12
LENS = (0.95, 1.6)  # horizontal field of view, radians
CLEARANCE_M = 0.22
DIRECTIONS = 16  # that a camera may look in from a station
# Least share of a room's free voxels in view that a camera sees: no image shows what is behind a closed
# door.
LEAST_SEEN = 0.05
CELL_M = 0.1  # of the grid of how crowded places are
CROWD_M = 0.22  # standard deviation of its blur
AHEAD_M = 0.2  # how far before a surface it is looked up
DARKNESS = 2.2  # how much darker a crowded place is
BOUNCED = 0.3  # of the direct light of a room comes back from its walls
GLOWING = {"view": 2.5, "screen": 0.25}  # light of textures that are lights themselves
_DIRT = np.array([(0.03, 0.04, 0.03)] * 4, np.float32)


class RoomWalk(RenderedDrive):
    """A camera that moves through the floor plan of a seed."""

    kind, assets = ROOMS, ("depth", "label", "instance", "voxels")

    def __init__(
        self,
        seed: int,
        frames: int,  # images
        size: tuple[int, int] = (640, 480),  # width and height, pixels
        # Frames from one station to the next; at stations the camera turns to something else. 1 gives views that have
        # nothing in common.
        leg: int = 8,
        # "robot": level, low, at one height and pitch. "hand": higher, and pitch and roll change. By default the seed
        # decides.
        carrier: str | None = None,
        supersampling: int = 2,
        rate_hz: float = 5.0,
    ) -> None:
        rng = np.random.default_rng([seed, 31])
        self.carrier = carrier or CARRIERS[int(rng.integers(2))]
        width, height = size
        focal = 0.5 * width / np.tan(0.5 * rng.uniform(*LENS))
        camera = Camera(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1), width, height)
        self.plan = FloorPlan(seed)
        scene = build_scene(self.plan)
        self._renderer = Renderer(scene, RoomShader(scene).colour, supersampling)
        poses = self._poses(rng, frames, leg)
        # A robot's rig stands on the floor, and its camera is mounted there; in a hand the camera is the rig.
        stands = poses[0].levelled() if self.carrier == "robot" else RigidTransform.identity()
        rig = [pose @ stands.inverse() for pose in poses]
        super().__init__(seed, {CAMERA: camera}, {CAMERA: stands}, rig, stamps_ns(frames, rate_hz), ROOM_GRID)

    def renderer_at(self, index: int) -> Renderer:
        """What renders the whole floor plan."""
        return self._renderer

    def grid_from_camera(self, index: int) -> RigidTransform:
        """The grid stands upright on the floor below the camera, along its viewing direction."""
        return self.world_from_camera(index, CAMERA).levelled()

    def provenance(self) -> dict[str, Any]:
        """With the height of the floor, by which every frame's grid stands."""
        made = {**super().provenance(), "floor": 0.0, "carrier": self.carrier, "classes": list(ROOM_CLASSES)}
        made["rooms"] = [room.kind for room in self.plan.rooms]
        made["voxel_grid"]["grid_from_camera"] = "level"
        return made

    def truth(self, index: int) -> VoxelTruth:
        """Voxels of the rooms that the camera looks into; those of others are unknown, as is what walls are made of."""
        pose = self.world_from_camera(index, CAMERA)
        grid_from_camera = self.grid_from_camera(index)
        truth = voxel_truth(self.scene_at(index), self.cameras[CAMERA], pose, self.grid, grid_from_camera)
        assert truth.visible is not None
        centres = truth.grid.centres()
        world = (pose @ grid_from_camera.inverse()).apply(centres.reshape(-1, 3)).reshape(centres.shape)
        number = self.plan.room_at(world[..., 0], world[..., 1])
        free = truth.free & truth.in_view
        count = len(self.plan.rooms)
        seen, there = (np.bincount(number[mask] + 1, minlength=count + 1) for mask in (free & truth.visible, free))
        open_rooms = np.flatnonzero(seen[1:] > LEAST_SEEN * np.maximum(there[1:], 1))
        indoors = np.isin(number, open_rooms) | truth.visible
        size = self.grid.voxel_size  # what lies below the floor counts for nothing
        level = (world[..., 2] > -0.5 * size) & (world[..., 2] < self.plan.height + size)
        inside = level & (indoors | truth.occupied & (number < 0))
        return replace(truth, known=truth.known & inside, class_map=ROOM_IDS)

    def _poses(self, rng: Random, frames: int, leg: int) -> list[RigidTransform]:
        """Of the camera's optical frame in the world: stations in turn in all rooms, and the way between them."""
        stations = -(-frames // leg) + 1
        areas = np.array([room.area for room in self.plan.rooms])
        counts = np.maximum(1, np.round(stations * areas / areas.sum())).astype(int)
        rooms = [room for room, count in zip(self.plan.rooms, counts, strict=True) for _ in range(count)]
        rooms = (rooms * stations)[:stations]
        robot = self.carrier == "robot"
        height, pitch = rng.uniform(*ROBOT_HEIGHT_M), rng.uniform(*ROBOT_PITCH)
        places, angles = np.empty((stations, 3)), np.empty((stations, 3))
        for number, room in enumerate(rooms):
            places[number] = self._free_place(rng, room, height if robot else rng.uniform(*HAND_HEIGHT_M))
            yaw = self._worth_seeing(rng, places[number])
            roll = 0.0 if robot else float(np.clip(rng.normal(0.0, HAND_ROLL), -0.3, 0.3))
            angles[number] = yaw, pitch if robot else rng.uniform(*HAND_PITCH), roll
        axes = OPTICAL_FROM_FORWARD.inverse().rotation
        poses = []
        for index in range(frames):
            station, share = index // leg, index % leg / leg
            turn = (angles[station + 1] - angles[station] + np.pi) % (2.0 * np.pi) - np.pi
            place = (1.0 - share) * places[station] + share * places[station + 1]
            yaw, down, roll = angles[station] + share * turn
            poses.append(RigidTransform(rotation_of_angles(roll, down, yaw) @ axes, place))
        return poses

    def _worth_seeing(self, rng: Random, place: Doubles) -> float:
        """A direction to look in, the more probably the farther one sees there."""
        yaw = rng.uniform(0.0, 2.0 * np.pi) + np.arange(DIRECTIONS) * 2.0 * np.pi / DIRECTIONS
        flat = np.stack([np.cos(yaw), np.sin(yaw), np.zeros(DIRECTIONS)], axis=1)
        hits = self._renderer.scene.rays.first_hits(np.broadcast_to(place, flat.shape), flat)
        far = np.minimum(hits.distance, 5.0).astype(np.float64)
        far = np.minimum(far, 0.5 * (np.roll(far, 1) + np.roll(far, -1))) ** 2
        return float(rng.choice(yaw, p=far / far.sum()))

    def _free_place(self, rng: Random, room: Room, tall: float) -> Doubles:
        x0, x1, y0, y1 = room.inside
        best = np.array([(x0 + x1) / 2, (y0 + y1) / 2, tall])
        for _ in range(200):
            x, y = rng.uniform((x0 + 0.15, y0 + 0.15), (x1 - 0.15, y1 - 0.15))
            around = (x - CLEARANCE_M, x + CLEARANCE_M, y - CLEARANCE_M, y + CLEARANCE_M)
            if not any(high > tall - 0.25 and high < 5.0 and overlap(around, taken) for taken, high in room.taken):
                return np.array([x, y, tall])
        return best


class RoomShader:
    """Shades the first hits of rays in one floor plan; what is random in shadows follows from plan and rays alone."""

    def __init__(self, scene: Scene) -> None:
        plan = scene.world
        assert isinstance(plan, FloorPlan)
        self._scene, self._plan = scene, plan
        self._dirt = periodic_noise(np.random.default_rng([plan.seed, 23]), 256, 256, 0.8)
        self._kind = np.zeros(len(scene.label), np.uint8)
        self._glow = np.array([GLOWING.get(name, 0.0) for name in plan.atlas.names], np.float32)[scene.texture]
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
        hits, up, dirt = hits.of(rows), np.array([0.0, 0.0, 1.0], np.float32), (self._dirt, _DIRT)
        seen = Surfaces.of(self._scene, origin, directions[rows], hits, pixel_angle, up, self._kind, dirt)
        point, normal, albedo = seen.point, seen.normal, seen.albedo
        room = self._plan.room_at(point[:, 0], point[:, 1])
        light = self._ambient[room] * self._openness(point, normal)[:, None] * (0.85 + 0.15 * normal[:, 2:])
        some = np.concatenate([origin[None], directions[:: max(1, len(directions) // 8)]])
        rng = np.random.default_rng([self._plan.seed, zlib.crc32(some.astype(np.float32).tobytes())])
        for lamp in self._plan.lights:
            self._add_lamp(rng, light, lamp, point, normal)
        glow = self._glow[hits.triangle][:, None]
        shine = 0.3 * albedo[:, 3:] * (1.0 - seen.facing[:, None]) ** 3 * light.mean(axis=1, keepdims=True)
        glowing = albedo[:, :3] * glow * (0.3 + self._plan.daylight)
        out[rows] = np.where(glow > 0.0, glowing, albedo[:, :3] * light + shine)
        return out

    def _openness(self, point: Floats, normal: Floats) -> Floats:
        """How much of the light from all sides a place gets [N]."""
        index, _ = self._grid.index_of(point + AHEAD_M * normal)
        i, j, k = np.clip(np.asarray(index), 0, np.asarray(self._grid.shape) - 1).T
        return np.asarray(np.exp(-DARKNESS * self._crowd[i, j, k]), np.float32)

    def _add_lamp(self, rng: Random, light: Floats, lamp: Light, point: Floats, normal: Floats) -> None:
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
