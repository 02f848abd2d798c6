"""Which voxel each pixel's ray meets first: tables that a camera and a grid share over a whole drive."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


@dataclass(frozen=True, eq=False)
class VoxelRays:
    """The voxels that every ray passes, one entry a voxel: those of the first ray from near to far, then the next's."""

    shape: tuple[int, int]  # rows and columns of the picture; a ray a pixel, row by row
    voxel: NDArray[np.int32]  # int32 [E], flat index (x·Y + y)·Z + z of the voxel
    depth: NDArray[np.float32]  # float32 [E], where the ray is first found in it, metres along the optical axis
    face: NDArray[np.uint8]  # uint8 [E], the axis of the face that it came in by: 0 x, 1 y, 2 z
    end: NDArray[np.int64]  # int64 [R], one past the last entry of each ray

    def first_hits(self, voxels: SemanticVoxels) -> NDArray[np.int64]:
        """The entry of the first occupied voxel along each ray, int64 [R]; -1 where a ray meets none."""
        occupied = np.zeros(voxels.grid.shape, dtype=bool)
        occupied[tuple(voxels.index.T)] = True
        hits = np.append(np.flatnonzero(occupied.reshape(-1)[self.voxel]), len(self.voxel))
        begin = np.concatenate([[0], self.end[:-1]])
        first = hits[np.searchsorted(hits, begin)]
        return np.where(first < self.end, first, -1)


@lru_cache(maxsize=2)  # 20 MB for the usual grid; making them takes as long as ten frames of the animation
def voxel_rays(grid: VoxelGrid, grid_from_camera: RigidTransform, camera: Camera, columns: int) -> VoxelRays:
    """Follow the rays of a small picture through a grid, in steps of half a voxel of depth.

    `camera`: camera that took the image; lens distortion is ignored; `columns`: width of the picture; its height
    follows the camera's aspect.
    """
    small = camera.without_distortion().resized(columns, max(1, round(camera.height * columns / camera.width)))
    rays = np.asarray(small.unproject(small.pixel_centres()), dtype=np.float64)  # [h, w, 3], z = 1
    shape = np.asarray(grid.shape)
    origin = (grid_from_camera.translation - np.asarray(grid.origin)) / grid.voxel_size
    directions = rays @ grid_from_camera.rotation.T / grid.voxel_size  # voxels a metre of depth
    voxel, depths, face, counts = [], [], [], []
    for row in directions:
        with np.errstate(divide="ignore", invalid="ignore"):  # along an axis a ray may not move
            left_box = np.nanmin(np.maximum(-origin / row, (shape - origin) / row), axis=1)
        depth = np.arange(0.5 * grid.voxel_size, max(float(left_box.max()), grid.voxel_size), 0.5 * grid.voxel_size)
        place = origin.astype(np.float32) + row.astype(np.float32)[:, None] * depth.astype(np.float32)[:, None]
        index = np.floor(np.clip(place, -1, shape)).astype(np.int32)  # [w, steps, 3]
        inside = ((index >= 0) & (index < shape)).all(axis=-1)
        moved = np.ones(index.shape, dtype=bool)
        moved[:, 1:] = index[:, 1:] != index[:, :-1]
        entered = inside & moved.any(axis=-1)
        voxel.append(np.ravel_multi_index(tuple(index[entered].T), grid.shape).astype(np.int32))
        depths.append(depth[np.nonzero(entered)[1]].astype(np.float32))
        face.append((2 - np.argmax(moved[entered][:, ::-1], axis=1)).astype(np.uint8))
        counts.append(entered.sum(axis=1))
    return VoxelRays(
        shape=(small.height, small.width),
        voxel=np.concatenate(voxel),
        depth=np.concatenate(depths),
        face=np.concatenate(face),
        end=np.cumsum(np.concatenate(counts)),
    )
