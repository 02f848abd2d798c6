"""Textured triangle meshes: boxes, extrusions, frusta and ellipsoids, from which everything in the town is built."""

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from scene_completion_ros.geometry.transforms import about
from scene_completion_training.arrays import Doubles, Ints, Reals

Colour = tuple[float, float, float]
Place = tuple[float, float, float]  # metres; also a size
Span = tuple[float, float]  # metres, from and to
Rectangle = tuple[float, float, float, float]  # x from, x to, y from, y to
Faces = str | tuple[str, str, str]  # one texture, or one for the faces along x (front, back), along y (sides), along z
Ends = tuple[str, str]  # textures of caps and mantle
# Metres of a texture's tile (horizontally, vertically), those of `TILES_M`, or one tile over each face.
Tile = tuple[float, float] | Literal["natural", "stretched"]
WHITE: Colour = (1.0, 1.0, 1.0)
# Natural tiles of what has joints or leaves of a known size; others have one metre.
TILES_M = {"concrete": (3.0, 3.0), "bricks": (2.0, 2.0), "planks": (2.0, 1.2)}
TILES_M |= dict.fromkeys(("leaves", "leaves_dark", "leaves_yellow"), (1.6, 1.6))
# Textures that show one thing as a whole: their tile is a face.
STRETCHED = frozenset({"car_side", "car_glass", "car_screen"})
_NEXT, _AFTER = np.array([1, 2, 0]), np.array([2, 0, 1])  # axes of a cross product


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh of one class; the triangles of a solid part bound one convex body, counter-clockwise from outside."""

    corners: Doubles  # triangle corners, [F, 3, 3] metres, world or object frame
    uv: Doubles  # texture coordinates of the corners, [F, 3, 2] in tiles of the texture
    normals: Doubles  # shading normals of the corners, [F, 3, 3]
    texture: Ints  # texture name of each face's group, [F] index into `texture_names`
    texture_names: tuple[str, ...]
    tint: Colour  # linear colour the texture is multiplied with
    label: int  # its class, of which each world has its own
    solid: bool = True  # whether the inside of the convex body belongs to the class, too
    instance: int = 0  # number of the thing that it is a part of, 0 for none

    def moved(self, translation: Place, yaw: float = 0.0) -> "Part":
        """The part turned by yaw about z, then shifted."""
        rotation = about(2, yaw)
        corners = self.corners @ rotation.T + np.asarray(translation)
        return replace(self, corners=corners, normals=self.normals @ rotation.T)

    def tilted(self, roll: float = 0.0, pitch: float = 0.0) -> "Part":
        """The part turned by pitch about y, then by roll about x."""
        rotation = about(0, roll) @ about(1, pitch)
        return replace(self, corners=self.corners @ rotation.T, normals=self.normals @ rotation.T)

    def planes(self) -> tuple[Doubles, Doubles]:
        """Outward face planes n.p <= offset of the convex body: normals [F, 3], offsets [F]."""
        a, b, c = self.corners[:, 0], self.corners[:, 1], self.corners[:, 2]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        keep = length[:, 0] > 1e-12
        normal = normal[keep] / length[keep]
        return normal, np.einsum("ij,ij->i", normal, a[keep])


def triple(values: Reals) -> Place:
    """Three values, of a colour or a place, as a tuple."""
    return (float(values[0]), float(values[1]), float(values[2]))


def grey(shade: float) -> Colour:
    """A colour of equal red, green and blue."""
    return (shade, shade, shade)


def moved_all(parts: list[Part], translation: Place, yaw: float = 0.0) -> list[Part]:
    """Every part of an object turned by yaw, then shifted."""
    return [part.moved(translation, yaw) for part in parts]


def quads(
    corners: Doubles, uv: Doubles, textures: str | tuple[str, ...], label: int, tint: Colour = WHITE, solid: bool = True
) -> Part:
    """Part of quadrilaterals [Q, 4, 3] with texture coordinates [Q, 4, 2]; one texture, or one for each quad."""
    names = (textures,) if isinstance(textures, str) else tuple(sorted(set(textures)))
    index = [0] * len(corners) if isinstance(textures, str) else [names.index(name) for name in textures]
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    points = corners[:, triangles].reshape(-1, 3, 3)
    texture, places = np.repeat(np.asarray(index, np.int64), 2), uv[:, triangles].reshape(-1, 3, 2)
    return Part(points, places, _flat_normals(points), texture, names, tint, label, solid)


def _flat_normals(corners: Doubles) -> Doubles:
    # By hand: a town has thousands of parts of a few faces, for which np.cross takes ten times as long.
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = a[:, _NEXT] * b[:, _AFTER] - a[:, _AFTER] * b[:, _NEXT]
    normal /= np.maximum(np.sqrt((normal * normal).sum(axis=-1, keepdims=True)), 1e-12)
    return np.repeat(normal[:, None], 3, axis=1)


def frustum(
    foot: Rectangle, top: Rectangle, z: Span, textures: Faces, label: int, tint: Colour = WHITE, tile: Tile = "natural"
) -> Part:
    """Body between the rectangle `foot` at z[0] and the rectangle `top` at z[1]."""
    size = _tile_m(tile, textures)
    x0, x1, y0, y1 = foot
    p0, p1, q0, q1 = top
    low = np.array([(x0, y0, z[0]), (x1, y0, z[0]), (x1, y1, z[0]), (x0, y1, z[0])])
    high = np.array([(p0, q0, z[1]), (p1, q0, z[1]), (p1, q1, z[1]), (p0, q1, z[1])])
    faces, uvs = [], []
    for first, second in ((1, 2), (3, 0), (0, 1), (2, 3)):  # front (+x), back, right (-y), left (+y)
        quad = np.array([low[first], low[second], high[second], high[first]])
        faces.append(quad)
        length = float(np.linalg.norm(quad[1] - quad[0]))
        uvs.append(_face_uv(length, float(np.linalg.norm(quad[3] - quad[0])), size))
    faces += [high, low[::-1]]
    uvs += [_face_uv(abs(p1 - p0), abs(q1 - q0), size), _face_uv(abs(x1 - x0), abs(y1 - y0), size)]
    if isinstance(textures, str):
        textures = (textures, textures, textures)
    names = (textures[0], textures[0], textures[1], textures[1], textures[2], textures[2])
    return quads(np.array(faces), np.array(uvs), names, label, tint=tint)


def _tile_m(tile: Tile, textures: str | tuple[str, ...]) -> tuple[float, float] | None:
    """Metres of a tile; None where one is stretched over each face."""
    if not isinstance(tile, str):
        return tile
    if tile == "stretched" or STRETCHED.intersection([textures] if isinstance(textures, str) else textures):
        return None
    return TILES_M.get(textures, (1.0, 1.0)) if isinstance(textures, str) else (1.0, 1.0)


def _face_uv(length: float, height: float, tile: tuple[float, float] | None) -> Doubles:
    u, v = (1.0, 1.0) if tile is None else (length / tile[0], height / tile[1])
    return np.array([(0.0, 0.0), (u, 0.0), (u, v), (0.0, v)])


def box(size: Place, centre: Place, faces: Faces, label: int, *, tint: Colour = WHITE, tile: Tile = "natural") -> Part:
    """Axis-parallel box."""
    (x, y, z), (half_x, half_y, half_z) = centre, (size[0] / 2, size[1] / 2, size[2] / 2)
    rectangle = (x - half_x, x + half_x, y - half_y, y + half_y)
    return frustum(rectangle, rectangle, (z - half_z, z + half_z), faces, label, tint=tint, tile=tile)


def extrusion(profile: Doubles, y: Span, ends: Ends, label: int, tint: Colour = WHITE, tile: Tile = "natural") -> Part:
    """Convex profile [K, 2] of (x, z), counter-clockwise seen from -y, drawn along y; textures of caps and mantle."""
    count, size = len(profile), _tile_m(tile, ends)
    near = np.insert(profile, 1, y[0], axis=1)  # [K, 3]
    far = np.insert(profile, 1, y[1], axis=1)
    low, high = profile.min(axis=0), profile.max(axis=0)
    cap_uv = (profile - low) / (high - low if size is None else np.asarray(size))
    following = np.roll(np.arange(count), -1)
    lengths = np.linalg.norm(profile[following] - profile, axis=-1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    mantle = np.stack([near[following], near, far, far[following]], axis=1)  # [K, 4, 3]
    u, v = (1.0, 1.0) if size is None else (abs(y[1] - y[0]) / size[0], 1.0 / size[1])
    mantle_uv = np.zeros((count, 4, 2))
    for k in range(count):
        start, end = (0.0, 1.0) if size is None else (along[k] * v, along[k + 1] * v)
        mantle_uv[k] = [(0.0, end), (0.0, start), (u, start), (u, end)]
    part = quads(mantle, mantle_uv, ends[1], label, tint=tint)
    fan = np.array([[0, k, k + 1] for k in range(1, count - 1)])
    caps = np.concatenate([near[fan], far[fan[:, ::-1]]])
    return replace(
        part,
        corners=np.concatenate([part.corners, caps]),
        uv=np.concatenate([part.uv, cap_uv[fan], cap_uv[fan[:, ::-1]]]),
        normals=np.concatenate([part.normals, _flat_normals(caps)]),
        texture=np.concatenate([np.zeros(2 * count, np.int64), np.ones(len(caps), np.int64)]),
        texture_names=(ends[1], ends[0]),
    )


def cylinder(
    radius: float, long: float, ends: Ends, label: int, tint: Colour = WHITE, tile: Tile = "stretched", sides: int = 12
) -> Part:
    """Cylinder along y, centred on the origin."""
    angle = 2.0 * np.pi * np.arange(sides) / sides
    profile = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    part = extrusion(profile, (-long / 2, long / 2), ends, label, tint=tint, tile=tile)
    normals = part.normals.copy()
    mantle = part.texture == 0
    radial = part.corners[mantle] * np.array([1.0, 0.0, 1.0])
    normals[mantle] = radial / np.maximum(np.linalg.norm(radial, axis=-1, keepdims=True), 1e-12)
    return replace(part, normals=normals)


def post(
    radius: float, length: float, foot: Place, label: int, texture: str = "metal", tint: Colour = WHITE,
    tile: Tile = "stretched", sides: int = 12,
) -> Part:  # fmt: skip
    """Upright cylinder on its foot."""
    body = cylinder(radius, length, (texture, texture), label, tint=tint, tile=tile, sides=sides)
    return body.tilted(roll=np.pi / 2).moved((foot[0], foot[1], foot[2] + length / 2))


def ellipsoid(radii: Place, centre: Place, cover: str, label: int, *, tint: Colour = WHITE, tile: float = 1.0) -> Part:
    """Smoothly shaded convex ellipsoid with 80 faces."""
    unit = _icosphere()
    corners = unit * np.asarray(radii)
    normals = unit / np.asarray(radii)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    # Each face takes the two axes across its own direction, so that the texture is nowhere stretched much.
    axis = np.abs(unit.mean(axis=1)).argmax(axis=-1)
    pick = np.array([(1, 2), (0, 2), (0, 1)])[axis]  # [F, 2]
    uv = np.take_along_axis(corners + np.asarray(centre), pick[:, None].repeat(3, axis=1), axis=2) / tile
    return Part(corners + np.asarray(centre), uv, normals, np.zeros(len(corners), np.int64), (cover,), tint, label)


@cache
def _icosphere() -> Doubles:
    golden = (1.0 + np.sqrt(5.0)) / 2.0
    vertices = np.array(
        [
            (-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0),
            (0, -1, golden), (0, 1, golden), (0, -1, -golden), (0, 1, -golden),
            (golden, 0, -1), (golden, 0, 1), (-golden, 0, -1), (-golden, 0, 1),
        ]
    )  # fmt: skip
    # The faces are the triples of vertices that are pairwise neighbours (distance 2), turned outwards.
    near = np.isclose(np.linalg.norm(vertices[:, None] - vertices[None], axis=-1), 2.0)
    triples = itertools.combinations(range(12), 3)
    faces = [(i, j, k) for i, j, k in triples if near[i, j] and near[j, k] and near[i, k]]
    triangles = vertices[np.array(faces)]
    outward = np.linalg.det(triangles) > 0
    triangles[~outward] = triangles[~outward][:, ::-1]
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    groups = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    triangles = np.concatenate([np.stack(group, axis=1) for group in groups])
    return np.asarray(triangles / np.linalg.norm(triangles, axis=-1, keepdims=True))
