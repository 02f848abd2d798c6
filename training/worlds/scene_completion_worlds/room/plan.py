"""A floor plan from its seed: rooms that share walls, doors between them, windows, and what stands in each room."""

from dataclasses import dataclass, field, replace

import numpy as np

from scene_completion_training.arrays import Ints, Random, Reals
from scene_completion_worlds.room import furniture
from scene_completion_worlds.room.furniture import ROOM_KINDS, RoomClass, Thing
from scene_completion_worlds.room.textures import FLOORS, WALLS, WOODS, make_atlas
from scene_completion_worlds.street.parts import WHITE, Colour, Part, Rectangle, box, moved_all, quads, triple
from scene_completion_worlds.street.scene import World
from scene_completion_worlds.street.sky import CameraLook
from scene_completion_worlds.street.textures import TextureAtlas

SMALLEST_M = 2.1  # side of a room
LARGEST_M2 = 32.0
DOOR_M, LINTEL_M = (0.8, 1.0), (1.98, 2.15)
WALL_M = 0.12
_TRIES = 12


@dataclass(frozen=True)
class Light:
    """A lamp at the ceiling, or a window."""

    place: tuple[float, float, float]
    colour: tuple[float, float, float]
    size: float  # radius, metres: how soft its shadows are


@dataclass
class Room:
    """One room: its walls' inner faces, what it is for, and which parts of its floor are taken."""

    inside: Rectangle
    kind: str
    taken: list[tuple[Rectangle, float]] = field(default_factory=list)  # rectangles of the floor, and how high

    @property
    def area(self) -> float:
        """Square metres."""
        x0, x1, y0, y1 = self.inside
        return (x1 - x0) * (y1 - y0)

    def free(self, wanted: Rectangle, above: float = 0.0) -> bool:
        """Whether a rectangle lies in the room and meets nothing that is higher."""
        x0, x1, y0, y1 = self.inside
        within = wanted[0] >= x0 and wanted[1] <= x1 and wanted[2] >= y0 and wanted[3] <= y1
        return within and not any(high > above and overlap(wanted, other) for other, high in self.taken)


@dataclass(frozen=True)
class _Wall:
    """A wall between two halves of a plan: it stands at one coordinate along an axis, between two of the other."""

    axis: int  # 0: at x, along y
    at: float
    along: tuple[float, float]
    openings: list[tuple[float, float]] = field(default_factory=list)


class FloorPlan(World):
    """All rooms of a seed."""

    ground_classes: tuple[int, ...] = (RoomClass.FLOOR,)

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 21])
        self.seed, self.height = seed, float(rng.uniform(2.35, 3.0))
        self.atlas: TextureAtlas = make_atlas(np.random.default_rng([seed, 22]))
        warmth, tint = rng.normal(0.0, 0.07), rng.normal(0.0, 0.02)
        spans = ((0.9, 1.35), (0.7, 1.2), (0.0, 0.25), (0.0, 2.0), (0.004, 0.03), (0.001, 0.01))
        self.look = CameraLook.drawn(rng, 0.0, warmth, tint, spans)  # one that exposes each image by itself
        wide, deep = float(rng.uniform(4.0, 11.0)), float(rng.uniform(3.5, 8.0))
        self.outline: Rectangle = (0.0, wide, 0.0, deep)
        self._walls: list[_Wall] = []
        self.rooms = [Room(inside, "") for inside in self._split(rng, self.outline)]
        self.parts: list[Part] = []
        self.lights: list[Light] = []
        self.daylight = float(rng.uniform(0.0, 1.6)) if rng.random() < 0.8 else 0.0
        self._things = 0
        self._name_rooms(rng)
        self._open_doors(rng)
        self._build(rng)

    def room_at(self, x: Reals, y: Reals) -> Ints:
        """Number of the room that places lie in, -1 in and beyond walls."""
        number = np.full(np.broadcast(x, y).shape, -1, np.int64)
        for index, room in enumerate(self.rooms):
            x0, x1, y0, y1 = room.inside
            number[(x > x0) & (x < x1) & (y > y0) & (y < y1)] = index
        return number

    def _split(self, rng: Random, whole: Rectangle) -> list[Rectangle]:
        x0, x1, y0, y1 = whole
        sides = (x1 - x0, y1 - y0)
        axis = int(sides[1] > sides[0]) if rng.random() < 0.85 else int(rng.integers(2))
        area = sides[0] * sides[1]
        if sides[axis] < 2.0 * SMALLEST_M + WALL_M or (area < LARGEST_M2 and rng.random() < 0.35) or area < 9.0:
            return [whole]
        share = rng.uniform(0.3, 0.7)
        at = whole[2 * axis] + float(np.clip(share * sides[axis], SMALLEST_M, sides[axis] - SMALLEST_M))
        self._walls.append(_Wall(axis, at, (whole[2 - 2 * axis], whole[3 - 2 * axis])))
        low, high = list(whole), list(whole)
        low[2 * axis + 1], high[2 * axis] = at - WALL_M / 2, at + WALL_M / 2
        first = self._split(rng, (low[0], low[1], low[2], low[3]))
        return first + self._split(rng, (high[0], high[1], high[2], high[3]))

    def _name_rooms(self, rng: Random) -> None:
        kinds = list(ROOM_KINDS)
        share = np.array([0.2, 0.14, 0.2, 0.18, 0.16, 0.08, 0.04])
        for room in self.rooms:
            x0, x1, y0, y1 = room.inside
            narrow = min(x1 - x0, y1 - y0) < 2.3
            fits = share * np.array([1, 1, not narrow, 1, 1, room.area < 14.0, 3.0 if narrow else 0.2], float)
            room.kind = kinds[int(rng.choice(len(kinds), p=fits / fits.sum()))]

    def _open_doors(self, rng: Random) -> None:
        """Doors along a random spanning tree of rooms that share a wall, and some more."""
        group = list(range(len(self.rooms)))
        pairs = []
        for wall in self._walls:
            for a, first in enumerate(self.rooms):
                for b, second in enumerate(self.rooms):
                    away = (first.inside[2 * wall.axis + 1] - wall.at, second.inside[2 * wall.axis] - wall.at)
                    across = 2 - 2 * wall.axis
                    low = max(first.inside[across], second.inside[across], wall.along[0])
                    high = min(first.inside[across + 1], second.inside[across + 1], wall.along[1])
                    if max(map(abs, away)) < WALL_M and high - low > 1.3:
                        pairs.append((wall, a, b, low, high))
        for index in rng.permutation(len(pairs)):
            wall, a, b, low, high = pairs[index]
            if group[a] == group[b] and rng.random() < 0.8:
                continue
            group = [group[a] if one == group[b] else one for one in group]
            width = float(rng.uniform(*DOOR_M)) if rng.random() < 0.85 else min(high - low - 0.3, 1.8)
            start = float(rng.uniform(low + 0.1, high - width - 0.1))
            wall.openings.append((start, start + width))
            along, before = (start, start + width), (wall.at - 0.9, wall.at + 0.9)
            for room in (self.rooms[a], self.rooms[b]):  # their floor before the door stays free
                room.taken.append(((*before, *along) if wall.axis == 0 else (*along, *before), 9.0))

    def _build(self, rng: Random) -> None:
        lintel = float(rng.uniform(*LINTEL_M))
        frame = (str(rng.choice(["paint", *WOODS])), triple(rng.uniform(0.5, 1.0, 3)))
        for wall in self._walls:
            self._stand_wall(rng, wall, lintel, frame)
        x0, x1, y0, y1 = self.outline
        texture, out = str(rng.choice(WALLS)), WALL_M
        for wall_box in (
            (x0 - out, x0, y0 - out, y1 + out),
            (x1, x1 + out, y0 - out, y1 + out),
            (x0 - out, x1 + out, y0 - out, y0),
            (x0 - out, x1 + out, y1, y1 + out),
        ):
            self.parts.append(_block(wall_box, (0.0, self.height), texture, RoomClass.WALL))
        floor = str(rng.choice(FLOORS))
        for room in self.rooms:
            own = str(rng.choice(FLOORS)) if rng.random() < 0.5 else floor
            self.parts.append(_sheet(room.inside, 0.0, own, RoomClass.FLOOR, 1.0))
            self.parts.append(_sheet(room.inside, self.height, "ceiling", RoomClass.CEILING, -1.0))
            self._skirting(rng, room)
            self._windows(rng, room)
            self._lamps(rng, room)
            self._furnish(rng, room)

    def _stand_wall(self, rng: Random, wall: _Wall, lintel: float, frame: tuple[str, Colour]) -> None:
        texture, label = str(rng.choice(WALLS)), RoomClass.WALL
        across = (wall.at - WALL_M / 2, wall.at + WALL_M / 2)

        def rectangle(start: float, end: float, thick: tuple[float, float] = across) -> Rectangle:
            return (*thick, start, end) if wall.axis == 0 else (start, end, *thick)

        last = wall.along[0]
        for start, end in sorted(wall.openings):
            self.parts.append(_block(rectangle(last, start), (0.0, self.height), texture, label))
            self.parts.append(_block(rectangle(start, end), (lintel, self.height), texture, label))
            self.parts.append(_sheet(rectangle(start, end), 0.0, str(rng.choice(FLOORS)), RoomClass.FLOOR, 1.0))
            thick = (wall.at - WALL_M / 2 - 0.015, wall.at + WALL_M / 2 + 0.015)
            tint = frame[1]
            door = [
                _block(rectangle(side, side + 0.06, thick), (0.0, lintel), frame[0], RoomClass.DOOR, tint)
                for side in (start - 0.03, end - 0.03)
            ]
            state = rng.random()
            if state < 0.35:  # closed
                leaf = (wall.at - 0.02, wall.at + 0.02)
                door.append(_block(rectangle(start, end, leaf), (0.01, lintel), frame[0], RoomClass.DOOR, tint))
            elif state < 0.8:  # open, at a right angle to the wall
                side, width = rng.choice((-1.0, 1.0)), end - start
                reach = sorted((wall.at, wall.at + side * width))
                leaf_box = rectangle(start, start + 0.04, (reach[0], reach[1]))
                door.append(_block(leaf_box, (0.01, lintel), frame[0], RoomClass.DOOR, tint))
            self._add(door)
            last = end
        self.parts.append(_block(rectangle(last, wall.along[1]), (0.0, self.height), texture, label))

    def _skirting(self, rng: Random, room: Room) -> None:
        if rng.random() < 0.5:
            return
        x0, x1, y0, y1 = room.inside
        high, tint = rng.uniform(0.05, 0.12), triple(rng.uniform(0.4, 1.0, 3))
        for axis, at, low, end in ((0, x0, y0, y1), (0, x1, y0, y1), (1, y0, x0, x1), (1, y1, x0, x1)):
            thick = (at - 0.012, at + 0.012)
            walls = [wall for wall in self._walls if wall.axis == axis and abs(wall.at - at) < WALL_M]
            gaps = sorted(gap for wall in walls for gap in wall.openings if low <= gap[0] and gap[1] <= end)
            last = low
            for start, stop in [*gaps, (end, end)]:
                piece = (*thick, last, start) if axis == 0 else (last, start, *thick)
                self.parts.append(_block(piece, (0.0, high), "paint", RoomClass.WALL, tint))
                last = stop

    def _outer_sides(self, room: Room) -> list[tuple[float, float, float, float]]:
        """Outer walls of a room: yaw towards the inside, the coordinate, and the ends along it."""
        x0, x1, y0, y1 = room.inside
        a0, a1, b0, b1 = self.outline
        sides = ((0.0, x0, y0, y1), (np.pi / 2, y0, x0, x1), (np.pi, x1, y0, y1), (-np.pi / 2, y1, x0, x1))
        return [side for side, outer in zip(sides, (a0, b0, a1, b1), strict=True) if abs(side[1] - outer) < 1e-6]

    def _windows(self, rng: Random, room: Room) -> None:
        for yaw, at, low, high in self._outer_sides(room):
            width = float(rng.uniform(0.6, 2.0))
            if rng.random() < 0.45 or high - low < width + 0.4:
                continue
            middle = float(rng.uniform(low + width / 2 + 0.2, high - width / 2 - 0.2))
            sill = float(rng.uniform(0.5, 1.1))
            top = min(self.height - 0.2, sill + float(rng.uniform(0.9, 1.5)))
            label = RoomClass.WINDOW
            tall, centre = top - sill, (sill + top) / 2
            parts = [box((0.02, width, tall), (0.01, 0.0, centre), ("view", "plain", "plain"), label, tile="stretched")]
            for y in np.linspace(-width / 2, width / 2, int(rng.integers(2, 4))):
                parts.append(box((0.05, 0.06, tall + 0.06), (0.03, float(y), centre), "paint", label))
            parts += [box((0.05, width, 0.06), (0.03, 0.0, z), "paint", label) for z in (sill, top)]
            if rng.random() < 0.4:
                for side in (-1.0, 1.0):
                    reach = float(rng.uniform(0.2, 0.6))
                    hung = furniture.hanging(rng, reach, (0.05, top + 0.15), RoomClass.CURTAIN, 0.1)
                    parts += [part.moved((0.0, side * (width / 2 + 0.05), 0.0)) for part in hung]
            place = (at, middle, 0.0) if abs(np.cos(yaw)) > 0.5 else (middle, at, 0.0)
            self._add(moved_all(parts, place, yaw))
            if self.daylight > 0.0:
                ahead = np.array([np.cos(yaw), np.sin(yaw)])
                glow = self.daylight * width * tall * np.array([0.9, 0.97, 1.1])
                spot = np.asarray(place[:2]) + 0.35 * ahead
                self.lights.append(Light((spot[0], spot[1], centre), tuple(glow.tolist()), 0.16))

    def _lamps(self, rng: Random, room: Room) -> None:
        x0, x1, y0, y1 = room.inside
        if self.daylight > 0.6 and rng.random() < 0.4:
            return
        warm = rng.uniform(0.0, 0.5)
        for _ in range(1 + int(room.area > 16.0)):
            x, y = rng.uniform(0.3, 0.7) * (x1 - x0) + x0, rng.uniform(0.3, 0.7) * (y1 - y0) + y0
            strength = rng.uniform(0.9, 2.0) * (0.5 + room.area / 24.0)
            colour = strength * np.array([1.0, 1.0 - 0.25 * warm, 1.0 - 0.7 * warm])
            self.lights.append(Light((x, y, self.height - 0.25), tuple(colour.tolist()), 0.06))
            self._add([box((0.5, 0.16, 0.05), (x, y, self.height - 0.03), "plain", RoomClass.OTHER_OBJECT)])

    def _furnish(self, rng: Random, room: Room) -> None:
        kinds = ROOM_KINDS[room.kind]
        x0, x1, y0, y1 = room.inside
        if room.kind == "kitchen":
            for _ in range(2):
                long = max(x1 - x0, y1 - y0)
                self._against_wall(rng, room, furniture.kitchen(rng, float(rng.uniform(1.2, max(1.3, 0.95 * long)))))
        walls = kinds["wall"]
        for _ in range(max(2, round(room.area * rng.uniform(0.2, 0.5)))):
            self._against_wall(rng, room, walls[int(rng.integers(len(walls)))](rng))
        for maker in kinds["middle"]:
            if rng.random() < 0.85:
                self._in_the_middle(rng, room, maker(rng))
        for _ in range(int(rng.integers(0, 3))):
            self._somewhere(rng, room, furniture.chair(rng))
        for _ in range(int(rng.integers(0, 5))):
            self._somewhere(rng, room, furniture.bin_or_box(rng))
        if rng.random() < 0.2:
            self._somewhere(rng, room, furniture.standing_person(rng))
        self._hang_pictures(rng, room)

    def _against_wall(self, rng: Random, room: Room, thing: Thing) -> None:
        """With its back to one of the walls, where there is room; a chair comes before a desk."""
        x0, x1, y0, y1 = room.inside
        for _ in range(_TRIES):
            side, gap = int(rng.integers(4)), float(rng.uniform(0.005, 0.05)) + thing.depth / 2
            low, high = ((y0, y1), (x0, x1))[side % 2]
            if high - low < thing.width:
                continue
            along = float(rng.uniform(low + thing.width / 2, high - thing.width / 2))
            x, y = ((x0 + gap, along), (along, y0 + gap), (x1 - gap, along), (along, y1 - gap))[side]
            if self._place(rng, room, thing, x, y, side * np.pi / 2):
                if any(part.label == RoomClass.DESK for part in thing.parts) and rng.random() < 0.85:
                    reach = thing.depth / 2 + float(rng.uniform(0.05, 0.4))
                    yaw = side * np.pi / 2
                    seat = (x + reach * np.cos(yaw), y + reach * np.sin(yaw))
                    self._place(rng, room, furniture.chair(rng), *seat, yaw + np.pi + float(rng.normal(0.0, 0.4)))
                return

    def _in_the_middle(self, rng: Random, room: Room, thing: Thing) -> None:
        """Away from the walls, with chairs around a table that is no low one."""
        x0, x1, y0, y1 = room.inside
        turn = int(rng.integers(2)) * np.pi / 2
        for _ in range(_TRIES):
            x, y = float(rng.uniform(x0 + 0.6, x1 - 0.6)), float(rng.uniform(y0 + 0.6, y1 - 0.6))
            if self._place(rng, room, thing, x, y, turn):
                break
        else:
            return
        if thing.tops[0][1] < 0.6:
            return
        for side in range(4):
            reach = (thing.depth if side % 2 == 0 else thing.width) / 2
            for shift in (-0.3, 0.3) if (thing.width if side % 2 == 0 else thing.depth) > 1.2 else (0.0,):
                if rng.random() < 0.7:
                    yaw = turn + side * np.pi / 2
                    away = reach + float(rng.uniform(-0.15, 0.35))
                    seat_x = x + away * np.cos(yaw) - shift * np.sin(yaw)
                    seat_y = y + away * np.sin(yaw) + shift * np.cos(yaw)
                    turned = yaw + np.pi + float(rng.normal(0.0, 0.3))
                    self._place(rng, room, furniture.chair(rng), seat_x, seat_y, turned, under=0.72)

    def _somewhere(self, rng: Random, room: Room, thing: Thing) -> None:
        x0, x1, y0, y1 = room.inside
        for _ in range(_TRIES // 2):
            place = float(rng.uniform(x0, x1)), float(rng.uniform(y0, y1))
            if self._place(rng, room, thing, *place, float(rng.uniform(-np.pi, np.pi))):
                return

    def _place(self, rng: Random, room: Room, thing: Thing, x: float, y: float, yaw: float, under: float = 0.0) -> bool:
        """Stands a thing where nothing higher than `under` is, clutter on it; False where it does not fit."""
        cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
        half_x, half_y = (cos * thing.depth + sin * thing.width) / 2, (sin * thing.depth + cos * thing.width) / 2
        wanted = (x - half_x, x + half_x, y - half_y, y + half_y)
        if not room.free(wanted, under + 0.08 if under else 0.0):
            return False
        parts = list(thing.parts)
        room.taken.append((wanted, max(float(part.corners[..., 2].max()) for part in parts)))
        self._add(moved_all(parts, (x, y, 0.0), yaw))
        for (x0, x1, y0, y1), z in thing.tops:
            for _ in range(int(rng.poisson(1.2 + 2.0 * (x1 - x0) * (y1 - y0)))):
                small = furniture.clutter(rng)
                margin = small.depth / 2
                if x1 - x0 > 2 * margin and y1 - y0 > 2 * margin:
                    a, b = rng.uniform(x0 + margin, x1 - margin), rng.uniform(y0 + margin, y1 - margin)
                    stood = moved_all(small.parts, (0.0, 0.0, 0.0), float(rng.uniform(-np.pi, np.pi)))
                    self._add(moved_all(moved_all(stood, (a, b, z)), (x, y, 0.0), yaw))
        return True

    def _hang_pictures(self, rng: Random, room: Room) -> None:
        x0, x1, y0, y1 = room.inside
        for _ in range(int(rng.integers(0, 5))):
            thing, side = furniture.picture(rng), int(rng.integers(4))
            low, high = ((y0, y1), (x0, x1))[side % 2]
            along = float(rng.uniform(low, high))
            reach = (along - 0.6, along + 0.6)
            strips = ((x0, x0 + 0.1, *reach), (*reach, y0, y0 + 0.1), (x1 - 0.1, x1, *reach), (*reach, y1 - 0.1, y1))
            height = float(rng.uniform(1.3, 1.8))
            if room.free(strips[side], height - 0.5):
                x, y = ((x0, along), (along, y0), (x1, along), (along, y1))[side]
                self._add(moved_all(thing.parts, (x, y, height), side * np.pi / 2))

    def _add(self, parts: list[Part]) -> None:
        self._things += 1
        self.parts += [replace(part, instance=self._things) for part in parts]


def overlap(first: Rectangle, second: Rectangle) -> bool:
    """Whether two rectangles have some area in common."""
    return first[0] < second[1] and second[0] < first[1] and first[2] < second[3] and second[2] < first[3]


def _block(rectangle: Rectangle, z: tuple[float, float], texture: str, label: int, tint: Colour = WHITE) -> Part:
    x0, x1, y0, y1 = rectangle
    size, centre = (x1 - x0, y1 - y0, z[1] - z[0]), ((x0 + x1) / 2, (y0 + y1) / 2, (z[0] + z[1]) / 2)
    return box(size, centre, texture, label, tint=tint, tile=(2.0, 2.0))


def _sheet(rectangle: Rectangle, z: float, texture: str, label: int, up: float) -> Part:
    """A floor, or a ceiling where `up` is -1; no solid."""
    x0, x1, y0, y1 = rectangle
    corners = np.array([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)])[:: int(up)]
    return quads(corners[None], corners[None, :, :2] / 2.0, texture, label, solid=False)
