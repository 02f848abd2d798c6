"""A rendered world as triangles in embree: ray queries, and what the rig's sensors see by them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_training.arrays import Bytes, Floats, Ints, Mask, Reals
from scene_completion_worlds.street.camera_rig import LidarModel, pixel_directions, turned
from scene_completion_worlds.street.kernels import surfaces_seen
from scene_completion_worlds.street.parts import Part
from scene_completion_worlds.street.sky import CameraLook, expose
from scene_completion_worlds.street.textures import TextureAtlas

OFFSET_M = 2e-3  # secondary rays start this far off the surface
CHUNK = 131_072  # rays shaded at once: their arrays stay within the cache
WELL = 8.0  # highlights are clipped before the mean, as a sensor's wells are


@dataclass(frozen=True, eq=False)
class Hits:
    """First surface along each of N rays."""

    distance: Floats  # length of the ray, float32 [N], infinite where nothing is hit
    triangle: NDArray[np.int32]  # index of the triangle, int32 [N], -1 where nothing is hit
    weight_b: Floats  # barycentric weight of the triangle's second corner, float32 [N]
    weight_c: Floats  # of its third corner

    @property
    def hit(self) -> Mask:
        """Whether the ray ends on something."""
        return np.asarray(self.triangle >= 0)

    def of(self, rows: Ints) -> "Hits":
        """Those of some rays."""
        return Hits(self.distance[rows], self.triangle[rows], self.weight_b[rows], self.weight_c[rows])


class RayScene:
    """Triangles [F, 3, 3], metres, world frame, behind an embree tree."""

    def __init__(self, corners: Reals) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        # Single precision loses 8 um at 100 m; a town of kilometres stays below a millimetre.
        self._scene: Any = EmbreeScene()
        self._mesh: Any = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def first_hits(self, origins: Reals, directions: Reals) -> Hits:
        """Trace N rays; directions [N, 3] of unit length give distances in metres."""
        rays = (np.ascontiguousarray(vectors, np.float32) for vectors in (origins, directions))
        found = self._scene.run(*rays, query="INTERSECT", output=1)
        triangle = np.asarray(found["primID"], np.int32)
        distance = np.where(triangle >= 0, found["tfar"], np.inf).astype(np.float32)
        return Hits(distance, triangle, np.asarray(found["u"], np.float32), np.asarray(found["v"], np.float32))

    def blocked(self, origins: Reals, directions: Reals, reach: Reals | None = None) -> Mask:
        """Whether anything lies on each ray, up to its reach in metres."""
        reaches = None if reach is None else np.ascontiguousarray(reach, np.float32)
        rays = (np.ascontiguousarray(vectors, np.float32) for vectors in (origins, directions))
        return np.asarray(self._scene.run(*rays, reaches, query="OCCLUDED") == 0)


class World:
    """What is built: a town, or rooms."""

    parts: list[Part]  # all that stands in it
    atlas: TextureAtlas
    look: CameraLook  # how its cameras render light
    ground_classes: tuple[int, ...]  # classes of the parts that are its ground


@dataclass(frozen=True, eq=False)
class Scene:
    """All triangles of a world with their attributes for shading and ground truth."""

    world: World
    corners: Floats  # [F, 3, 3] float32 metres, world frame
    uv: Floats  # [F, 3, 2] float32 texture tiles
    normals: Floats  # [F, 3, 3] float32
    texture: NDArray[np.int32]  # [F] int32 numbers in the atlas
    tint: Floats  # [F, 3] float32
    label: Bytes  # [F] uint8, classes
    instance: NDArray[np.int32]  # [F] int32, of which thing each is a part
    texels_per_metre: Floats  # [F] float32, of the finest texture level
    part_low: Floats  # smallest coordinates of each part, [P, 3]
    part_high: Floats  # largest coordinates of each part, [P, 3]
    rays: RayScene
    ground_rays: RayScene


def build_scene(world: World) -> Scene:
    """Gather the triangles of a world and build its ray trees."""
    parts, atlas = world.parts, world.atlas
    counts = [len(part.corners) for part in parts]
    corners = np.concatenate([part.corners for part in parts]).astype(np.float32)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    uv = np.concatenate([part.uv for part in parts]).astype(np.float32)
    label = np.repeat(np.array([part.label for part in parts], np.uint8), counts)
    texture = np.concatenate(
        [np.array([atlas.index(name) for name in part.texture_names], np.int32)[part.texture] for part in parts]
    )
    return Scene(
        world=world,
        corners=corners,
        uv=uv,
        normals=np.concatenate([part.normals for part in parts]).astype(np.float32),
        texture=texture,
        tint=np.repeat(np.array([part.tint for part in parts], np.float32), counts, axis=0),
        label=label,
        instance=np.repeat(np.array([part.instance for part in parts], np.int32), counts),
        texels_per_metre=_texel_density(corners, uv * atlas.texels_per_tile()[texture][:, None, ::-1]),
        part_low=np.minimum.reduceat(corners.min(axis=1), first),
        part_high=np.maximum.reduceat(corners.max(axis=1), first),
        rays=RayScene(corners),
        ground_rays=RayScene(corners[np.isin(label, world.ground_classes)]),
    )


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What rays hit, as shading needs it."""

    point: Floats  # [N, 3], world frame
    normal: Floats  # [N, 3]
    albedo: Floats  # linear colour and gloss, [N, 4]
    lit: Floats  # cosine to a light's direction, [N]
    facing: Floats  # cosine to the ray, [N]

    @staticmethod
    def of(
        scene: Scene, origin: Floats, directions: Floats, hits: Hits, pixel_angle: float, light: Floats, kind: Bytes,
        dirt: tuple[Floats, Floats],
    ) -> "Surfaces":  # fmt: skip
        """Surfaces where rays from one origin end; `kind`: of each triangle; `dirt`: tile, and strengths by kind."""
        found = Surfaces(*(np.empty((len(directions), *shape), np.float32) for shape in ((3,), (3,), (4,), (), ())))
        surfaces_seen(
            origin, directions, hits.distance, hits.triangle, hits.weight_b, hits.weight_c, scene.uv, scene.normals,
            scene.texture, scene.tint, scene.texels_per_metre, kind, *scene.world.atlas.tables, *dirt,
            np.float32(pixel_angle), light, *vars(found).values()
        )  # fmt: skip
        return found


def _texel_density(corners: Floats, texels: Floats) -> Floats:
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    flat = texels[:, 1:] - texels[:, :1]
    texel_area = np.abs(flat[:, 0, 0] * flat[:, 1, 1] - flat[:, 0, 1] * flat[:, 1, 0])
    return np.asarray(np.sqrt(texel_area / np.maximum(area, 1e-9)), np.float32)


@dataclass(frozen=True, eq=False)
class View:
    """Exact geometry behind every pixel centre."""

    depth: Floats  # z-depth in the optical frame, metres [H, W]; infinite where the sky is
    label: Bytes  # class [H, W]; 0 where the sky is
    instance: NDArray[np.int32]  # number of the thing [H, W]; 0 where it is none


# Linear colour [N, 3] of rays from one origin [3], directions [N, 3], with their first hits; radians between rays.
Shading = Callable[[Floats, Floats, Hits, float], Floats]


class Renderer:
    """Renders one built part of a world, with `supersampling` rays along each side of a pixel."""

    def __init__(self, scene: Scene, shading: Shading, supersampling: int = 2) -> None:
        self.scene, self._shading, self._supersampling = scene, shading, supersampling

    def image(self, camera: Camera, world_from_camera: RigidTransform, seed: tuple[int, ...]) -> Bytes:
        """RGB image uint8 [H, W, 3] with the seed's noise; pixels outside a fisheye's circle are black."""
        k = self._supersampling
        rays = pixel_directions(camera, k)  # [H * k, W * k, 3]
        origin = world_from_camera.translation.astype(np.float32)
        rows = max(1, CHUNK // (k * k * camera.width))
        total = np.zeros((camera.height, camera.width, 3), np.float32)  # linear light of every pixel's area
        dark = np.isnan(rays[::k, ::k, 0]) | np.isnan(rays[k - 1 :: k, k - 1 :: k, 0])
        for top in range(0, camera.height, rows):
            part = rays[top * k : (top + rows) * k]
            directions = turned(part.reshape(-1, 3), world_from_camera.rotation)
            light, seen = np.zeros(directions.shape, np.float32), np.flatnonzero(~np.isnan(directions[:, 0]))
            if len(seen):
                directions = directions[seen]
                hits = self.scene.rays.first_hits(np.broadcast_to(origin, directions.shape), directions)
                light[seen] = self._shading(origin, directions, hits, 1.0 / (camera.fx * k))
            samples = np.minimum(light, WELL, out=light).reshape(len(part), camera.width * k, 3)
            for i in range(k):  # several times as fast as a mean over two axes
                for j in range(k):
                    total[top : top + rows] += samples[i::k, j::k] / np.float32(k * k)
        image = expose(total, self.scene.world.look, seed)
        image[dark] = 0
        return image


def trace_view(scene: Scene, camera: Camera, world_from_camera: RigidTransform) -> View:
    """Depth and labels at the pixel centres of a camera."""
    rays = pixel_directions(camera).reshape(-1, 3)
    known = ~np.isnan(rays[:, 0])
    directions = turned(rays, world_from_camera.rotation)
    directions[~known] = (0.0, 0.0, 1.0)
    origins = np.broadcast_to(world_from_camera.translation.astype(np.float32), directions.shape)
    hits = scene.rays.first_hits(origins, directions)
    shape = (camera.height, camera.width)
    hit = hits.hit & known
    depth = np.where(hit, hits.distance * rays[:, 2], np.inf)
    label = np.where(hit, scene.label[hits.triangle], 0)
    instance = np.where(hit, scene.instance[hits.triangle], 0)
    return View(depth.reshape(shape).astype(np.float32), label.reshape(shape).astype(np.uint8), instance.reshape(shape))


def scan(
    world: Scene, lidar: LidarModel, world_from_lidar: RigidTransform, seed: tuple[int, ...]
) -> tuple[Floats, Bytes]:
    """Points float32 [N, 3] of one turn at one instant, in the LiDAR's frame, metres, and their classes uint8 [N]."""
    rng = np.random.default_rng([*seed, 4])
    elevation = np.linspace(lidar.elevation[1], lidar.elevation[0], lidar.beams)[:, None]
    azimuth = 2.0 * np.pi * np.arange(lidar.columns) / lidar.columns
    up, _ = np.broadcast_arrays(np.sin(elevation), azimuth)
    beams = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), up], axis=-1)
    beams = beams.reshape(-1, 3).astype(np.float32)
    directions = (beams @ world_from_lidar.rotation.T.astype(np.float32)).astype(np.float32)
    origins = np.broadcast_to(world_from_lidar.translation.astype(np.float32), directions.shape)
    hits = world.rays.first_hits(origins, directions)
    distance = hits.distance + rng.normal(0.0, lidar.noise_m, len(beams)).astype(np.float32)
    kept = (hits.distance < lidar.reach_m) & (rng.random(len(beams)) >= lidar.dropout)
    return beams[kept] * distance[kept, None], world.label[hits.triangle[kept]]
