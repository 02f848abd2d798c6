"""A rendered world as triangles in embree: ray queries and the surface found by them."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.parts import Part
from scene_completion_training.street_world.sensor import CameraLook
from scene_completion_training.street_world.texture_atlas import TextureAtlas

Floats = NDArray[np.float32]

OFFSET_M = 2e-3  # secondary rays start this far off the surface


@dataclass(frozen=True, eq=False)
class Hits:
    """First surface along each of N rays."""

    distance: Floats  # length of the ray, float32 [N], infinite where nothing is hit
    triangle: NDArray[np.int32]  # index of the triangle, int32 [N], -1 where nothing is hit
    weight_b: Floats  # barycentric weight of the triangle's second corner, float32 [N]
    weight_c: Floats  # of its third corner

    @property
    def hit(self) -> NDArray[np.bool_]:
        """Whether the ray ends on something."""
        return np.asarray(self.triangle >= 0)


class RayScene:
    """Triangles [F, 3, 3], metres, world frame, behind an embree tree."""

    def __init__(self, corners: NDArray[np.floating]) -> None:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        # Single precision loses 8 um at 100 m; a town of kilometres stays below a millimetre.
        self._scene: Any = EmbreeScene()
        self._mesh: Any = TriangleMesh(self._scene, np.ascontiguousarray(corners, np.float32))

    def first_hits(self, origins: NDArray[np.floating], directions: NDArray[np.floating]) -> Hits:
        """Trace N rays; directions [N, 3] of unit length give distances in metres."""
        found = self._scene.run(_as_rays(origins), _as_rays(directions), query="INTERSECT", output=1)
        triangle = np.asarray(found["primID"], np.int32)
        distance = np.where(triangle >= 0, found["tfar"], np.inf).astype(np.float32)
        return Hits(distance, triangle, np.asarray(found["u"], np.float32), np.asarray(found["v"], np.float32))

    def blocked(
        self, origins: NDArray[np.floating], directions: NDArray[np.floating], reach: NDArray[np.floating] | None = None
    ) -> NDArray[np.bool_]:
        """Whether anything lies on each ray, up to its reach in metres."""
        reaches = None if reach is None else np.ascontiguousarray(reach, np.float32)
        answer = self._scene.run(_as_rays(origins), _as_rays(directions), reaches, query="OCCLUDED")
        return np.asarray(answer == 0)


def _as_rays(vectors: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(vectors, dtype=np.float32)


class World(Protocol):
    """What is built: a town, or rooms."""

    @property
    def parts(self) -> list[Part]:
        """All that stands in it."""

    @property
    def atlas(self) -> TextureAtlas:
        """Its textures."""

    @property
    def look(self) -> CameraLook:
        """How its cameras render light."""

    @property
    def ground_classes(self) -> tuple[int, ...]:
        """Classes of the parts that are its ground."""


@dataclass(frozen=True, eq=False)
class Scene:
    """All triangles of a world with what shading and ground truth need to know of them."""

    world: World
    corners: Floats  # [F, 3, 3] float32 metres, world frame
    uv: Floats  # [F, 3, 2] float32 texture tiles
    normals: Floats  # [F, 3, 3] float32
    texture: NDArray[np.int32]  # [F] int32 numbers in the atlas
    tint: Floats  # [F, 3] float32
    label: NDArray[np.uint8]  # [F] uint8, classes
    instance: NDArray[np.int32]  # [F] int32, of which thing each is a part
    texels_per_metre: Floats  # [F] float32, of the finest texture level
    parts: list[Part]
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
        parts=parts,
        part_low=np.minimum.reduceat(corners.min(axis=1), first),
        part_high=np.maximum.reduceat(corners.max(axis=1), first),
        rays=RayScene(corners),
        ground_rays=RayScene(corners[np.isin(label, world.ground_classes)]),
    )


def _texel_density(corners: Floats, texels: Floats) -> Floats:
    """Square root of texels per square metre of every triangle."""
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    flat = texels[:, 1:] - texels[:, :1]
    texel_area = np.abs(flat[:, 0, 0] * flat[:, 1, 1] - flat[:, 0, 1] * flat[:, 1, 0])
    return np.asarray(np.sqrt(texel_area / np.maximum(area, 1e-9)), np.float32)
