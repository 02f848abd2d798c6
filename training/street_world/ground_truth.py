"""What every voxel around the camera really holds, and which of it the camera can see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from training.street_world.parts import Part
from training.street_world.render import trace_view
from training.street_world.scene import GROUND_CLASSES, StreetScene

Flags = NDArray[np.uint8]
Mask = NDArray[np.bool_]

IN_VIEW, VISIBLE, BELOW_GROUND, INTERIOR = 1, 2, 4, 8
"""Bits of the flags that are stored beside the labels of a frame's voxels."""

SAMPLES_PER_VOXEL = 2.5  # surface samples along a voxel's edge
COLUMN_RAYS = 3  # ground rays along each side of a column


@dataclass(frozen=True, eq=False)
class VoxelTruth:
    """Exact contents of a voxel grid, all arrays [X, Y, Z].

    Args:
        label: `StreetClass`, uint8; 0 is free. Occupied are voxels that a surface passes and insides of solid things.
        interior: Occupied, but no surface passes: the inside of a house, a car, a crown.
        in_view: The centre projects into the image.
        visible: In view, and the camera sees the centre or some surface in the voxel.
        below_ground: Entirely under the ground surface; labelled free, but nothing a sensor can ever tell.
    """

    label: NDArray[np.uint8]
    interior: Mask
    in_view: Mask
    visible: Mask
    below_ground: Mask

    @property
    def occupied(self) -> Mask:
        """Whether the voxel holds anything."""
        return np.asarray(self.label > 0)

    @property
    def occluded(self) -> Mask:
        """In view but hidden: what completion has to infer."""
        return np.asarray(self.in_view & ~self.visible & ~self.below_ground)

    @property
    def flags(self) -> Flags:
        """The masks as bits `IN_VIEW`, `VISIBLE`, `BELOW_GROUND`, `INTERIOR`."""
        masks = ((IN_VIEW, self.in_view), (VISIBLE, self.visible), (BELOW_GROUND, self.below_ground))
        total = self.interior.astype(np.uint8) * INTERIOR
        for bit, mask in masks:
            total |= mask.astype(np.uint8) * bit
        return np.asarray(total, np.uint8)

    @staticmethod
    def from_flags(label: NDArray[np.uint8], flags: Flags) -> VoxelTruth:
        """Rebuild from stored labels and flags."""
        interior, in_view = (flags & INTERIOR) > 0, (flags & IN_VIEW) > 0
        return VoxelTruth(label, interior, in_view, (flags & VISIBLE) > 0, (flags & BELOW_GROUND) > 0)


def voxel_truth(
    scene: StreetScene,
    camera: Camera,
    world_from_camera: RigidTransform,
    grid: VoxelGrid = DEFAULT_GRID,
    grid_from_camera: RigidTransform = DEFAULT_GRID_FROM_CAMERA,
) -> VoxelTruth:
    """Voxelise the town around one camera pose.

    Where a voxel holds several classes, things beat the ground they stand on, and the larger surface wins.
    """
    grid_from_world = grid_from_camera @ world_from_camera.inverse()
    label, surface_height = _ground(scene, grid, grid_from_world)
    top = grid.origin[2] + grid.voxel_size * (np.arange(grid.shape[2]) + 1.0)
    below = top[None, None, :] < surface_height[:, :, None]

    near = _near_parts(scene, grid, grid_from_world)
    inside = _solid_label(near, grid, grid_from_world)
    surface = _surface_label(near, grid, grid_from_world)
    label = np.where(inside > 0, inside, label)
    label = np.where(surface > 0, surface, label)
    label[below] = 0  # foundations are no concern of anybody
    interior = (inside > 0) & (surface == 0) & ~below
    in_view, visible = _visibility(scene, camera, world_from_camera, grid, grid_from_camera)
    return VoxelTruth(label, interior, in_view, visible, below)


def _ground(
    scene: StreetScene, grid: VoxelGrid, grid_from_world: RigidTransform
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Labels of the ground's voxels [X, Y, Z] and the lowest ground height in each column [X, Y], grid frame."""
    steps = [(np.arange(size * COLUMN_RAYS) + 0.5) / COLUMN_RAYS * grid.voxel_size for size in grid.shape[:2]]
    x, y = np.meshgrid(grid.origin[0] + steps[0], grid.origin[1] + steps[1], indexing="ij")
    lift = 30.0
    start = np.stack([x, y, np.full_like(x, grid.origin[2] + lift)], axis=-1).reshape(-1, 3)
    world_from_grid = grid_from_world.inverse()
    origins = world_from_grid.apply(start)
    down = np.broadcast_to(-world_from_grid.rotation[:, 2], origins.shape)
    hits = scene.ground_rays.first_hits(origins, down)
    height = start[:, 2] - hits.distance
    classes = scene.label[np.isin(scene.label, GROUND_CLASSES)]
    points = np.concatenate([start[:, :2], height[:, None]], axis=-1)[hits.hit]
    label = _majority(points, classes[hits.triangle[hits.hit]], grid)
    blocks = height.reshape(grid.shape[0], COLUMN_RAYS, grid.shape[1], COLUMN_RAYS)
    return label, blocks.min(axis=(1, 3))


def _near_parts(scene: StreetScene, grid: VoxelGrid, grid_from_world: RigidTransform) -> list[Part]:
    """Parts that are no ground and whose box overlaps the grid, in the world frame."""
    low = np.asarray(grid.origin)
    high = low + grid.voxel_size * np.asarray(grid.shape)
    corners = grid_from_world.apply(scene.corners.reshape(-1, 3).astype(np.float64)).reshape(-1, 3, 3)
    first = np.minimum.reduceat(corners.min(axis=1), scene.part_start[:-1])
    last = np.maximum.reduceat(corners.max(axis=1), scene.part_start[:-1])
    touching = np.all((last >= low) & (first <= high), axis=-1)
    return [scene.parts[k] for k in np.flatnonzero(touching) if scene.parts[k].label not in GROUND_CLASSES]


def _solid_label(parts: list[Part], grid: VoxelGrid, grid_from_world: RigidTransform) -> NDArray[np.uint8]:
    """Class of the solid that holds each voxel's centre; the first part wins where solids overlap."""
    label = np.zeros(grid.shape, np.uint8)
    axes = grid.axis_centres()
    for part in parts:
        if not part.solid:
            continue
        corners = grid_from_world.apply(part.corners)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        box = tuple(
            slice(*np.searchsorted(axis, (first, last))) for axis, first, last in zip(axes, low, high, strict=True)
        )
        x, y, z = (axis[where] for axis, where in zip(axes, box, strict=True))
        if not (len(x) and len(y) and len(z)):
            continue
        normals, offsets = part.planes()
        normals = normals @ grid_from_world.rotation.T
        offsets = offsets + normals @ grid_from_world.translation
        inside = np.ones((len(x), len(y), len(z)), np.bool_)
        for normal, offset in zip(normals, offsets, strict=True):
            plane = normal[0] * x[:, None, None] + normal[1] * y[None, :, None] + normal[2] * z[None, None, :]
            inside &= plane <= offset + 1e-6
        view = label[box]
        view[inside & (view == 0)] = part.label
    return label


def _surface_label(parts: list[Part], grid: VoxelGrid, grid_from_world: RigidTransform) -> NDArray[np.uint8]:
    """Class with the largest surface in each voxel."""
    if not parts:
        return np.zeros(grid.shape, np.uint8)
    corners = grid_from_world.apply(np.concatenate([part.corners for part in parts]))
    classes = np.repeat(np.array([part.label for part in parts], np.uint8), [len(part.corners) for part in parts])
    low = np.asarray(grid.origin)
    high = low + grid.voxel_size * np.asarray(grid.shape)
    touching = np.all((corners.max(axis=1) >= low) & (corners.min(axis=1) <= high), axis=-1)
    points, owner = sample_triangles(corners[touching], grid.voxel_size / SAMPLES_PER_VOXEL)
    return _majority(points, classes[touching][owner], grid)


def sample_triangles(corners: NDArray[np.float64], spacing: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Points on triangles [F, 3, 3], at most `spacing` metres apart: points [N, 3], triangle of each [N]."""
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=-1)
    # Powers of two leave few groups of equal lattices to loop over.
    count = 2 ** np.ceil(np.log2(np.maximum(edges / spacing, 1.0))).astype(np.int64)
    points, owners = [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for steps in np.unique(count):
        rows = np.flatnonzero(count == steps)
        i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
        keep = i + j <= steps
        weights = np.stack([steps - i[keep] - j[keep], i[keep], j[keep]], axis=-1) / steps  # [K, 3]
        points.append((weights @ corners[rows]).reshape(-1, 3))
        owners.append(np.repeat(rows, len(weights)))
    return np.concatenate(points), np.concatenate(owners)


def _majority(points: NDArray[np.float64], classes: NDArray[np.uint8], grid: VoxelGrid) -> NDArray[np.uint8]:
    """Most frequent class of the points in each voxel, 0 where there is none."""
    index, inside = grid.index_of(points)
    flat = np.ravel_multi_index(tuple(np.asarray(index)[np.asarray(inside)].T), grid.shape)
    votes, counts = np.unique(flat * 32 + classes[np.asarray(inside)], return_counts=True)
    order = np.argsort(counts, kind="stable")  # later entries overwrite earlier ones: the largest count stays
    label = np.zeros(int(np.prod(grid.shape)), np.uint8)
    label[votes[order] // 32] = votes[order] % 32
    return label.reshape(grid.shape)


def _visibility(
    scene: StreetScene,
    camera: Camera,
    world_from_camera: RigidTransform,
    grid: VoxelGrid,
    grid_from_camera: RigidTransform,
) -> tuple[Mask, Mask]:
    camera_from_grid = grid_from_camera.inverse()
    centres = camera_from_grid.apply(grid.centres().reshape(-1, 3))
    _, valid = camera.project(centres)
    rows = np.flatnonzero(np.asarray(valid))
    rays = centres[rows]
    distance = np.linalg.norm(rays, axis=-1)
    directions = (rays / distance[:, None]) @ world_from_camera.rotation.T.astype(np.float32)
    origins = np.broadcast_to(world_from_camera.translation.astype(np.float32), directions.shape)
    in_view = np.zeros(len(centres), np.bool_)
    in_view[rows] = True
    visible = np.zeros(len(centres), np.bool_)
    visible[rows] = ~scene.rays.blocked(origins, directions, distance)
    # A surface voxel's centre mostly lies behind its own surface: those count that a pixel's ray ends in.
    fine = camera.resized(2 * camera.width, 2 * camera.height)
    depth = trace_view(scene, fine, world_from_camera).depth
    seen = np.isfinite(depth)
    v, u = np.nonzero(seen)
    pixels = np.stack([u, v], axis=-1).astype(np.float32)
    ends = grid_from_camera.apply(fine.unproject(pixels) * depth[seen][:, None])
    index, inside = grid.index_of(ends)
    flat = np.ravel_multi_index(tuple(np.asarray(index)[np.asarray(inside)].T), grid.shape)
    visible[flat] = True
    visible &= in_view
    return in_view.reshape(grid.shape), visible.reshape(grid.shape)
