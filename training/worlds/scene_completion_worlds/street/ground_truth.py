"""What every voxel around the camera really holds, and which of it the camera can see."""

from functools import lru_cache

import numpy as np

from scene_completion_ros.evaluation.truth import FREE, VoxelTruth
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Mask
from scene_completion_worlds.street.camera_rig import pixel_directions, turned
from scene_completion_worlds.street.kernels import fill_convex, vote_triangles
from scene_completion_worlds.street.parts import Part
from scene_completion_worlds.street.scene import Scene, trace_view

SAMPLES_PER_VOXEL = 2.5  # surface samples along a voxel's edge
COLUMN_RAYS = 3  # ground rays along each side of a column


def voxel_truth(
    scene: Scene,
    camera: Camera,
    world_from_camera: RigidTransform,
    grid: VoxelGrid,
    grid_from_camera: RigidTransform = DEFAULT_GRID_FROM_CAMERA,
) -> VoxelTruth:
    """Voxelise the world around a camera: things beat the ground they stand on, and the larger surface wins."""
    grid_from_world = grid_from_camera @ world_from_camera.inverse()
    label, heights = _ground(scene, grid, grid_from_world)
    surface_height = heights.min(axis=(1, 3))
    top = grid.origin[2] + grid.voxel_size * (np.arange(grid.shape[2]) + 1.0)
    below = top[None, None, :] < surface_height[:, :, None]
    near = _near_parts(scene, grid, grid_from_world)
    inside = _solid_label(near, grid, grid_from_world)
    surface = _surface_label(near, grid, grid_from_world)
    label = np.where(inside > 0, inside, label)
    label = np.where(surface > 0, surface, label)
    label[below] = 0  # foundations do not count
    interior = (inside > 0) & (surface == 0) & ~below
    in_view, visible = _visibility(scene, camera, world_from_camera, grid, grid_from_camera)
    known = {"interior": interior, "label": label, "ground": heights.mean(axis=(1, 3)).astype(np.float32)}
    return VoxelTruth("exact", grid, grid_from_camera, label > FREE, ~below, in_view, visible, **known)


def _ground(scene: Scene, grid: VoxelGrid, grid_from_world: RigidTransform) -> tuple[Bytes, Doubles]:
    """Labels of the ground's voxels [X, Y, Z] and heights of the ground below rays, [X, R, Y, R], grid frame."""
    steps = [(np.arange(size * COLUMN_RAYS) + 0.5) / COLUMN_RAYS * grid.voxel_size for size in grid.shape[:2]]
    x, y = np.meshgrid(grid.origin[0] + steps[0], grid.origin[1] + steps[1], indexing="ij")
    lift = 30.0
    start = np.stack([x, y, np.full_like(x, grid.origin[2] + lift)], axis=-1).reshape(-1, 3)
    world_from_grid = grid_from_world.inverse()
    origins = world_from_grid.apply(start)
    hits = scene.ground_rays.first_hits(origins, np.broadcast_to(-world_from_grid.rotation[:, 2], origins.shape))
    height = start[:, 2] - hits.distance
    classes = scene.label[np.isin(scene.label, scene.world.ground_classes)]
    index, inside = grid.index_of(np.concatenate([start[:, :2], height[:, None]], axis=-1))
    rows = np.asarray(inside) & hits.hit
    flat = np.ravel_multi_index(tuple(np.asarray(index)[rows].T), grid.shape)
    found, votes = np.unique(flat * 256 + classes[hits.triangle[rows]], return_counts=True)
    order = np.argsort(votes, kind="stable")  # the class with most votes is written last
    label = np.zeros(grid.shape, np.uint8)
    label.reshape(-1)[found[order] // 256] = found[order] % 256
    return label, height.reshape(grid.shape[0], COLUMN_RAYS, grid.shape[1], COLUMN_RAYS)


def _near_parts(scene: Scene, grid: VoxelGrid, grid_from_world: RigidTransform) -> list[Part]:
    """Parts that are no ground and whose box overlaps the grid's, both along the world's axes."""
    low = np.asarray(grid.origin)
    high = low + grid.voxel_size * np.asarray(grid.shape)
    ends = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    world = grid_from_world.inverse().apply(ends)
    touching = np.all((scene.part_high >= world.min(axis=0)) & (scene.part_low <= world.max(axis=0)), axis=-1)
    parts = (scene.world.parts[k] for k in np.flatnonzero(touching))
    return [part for part in parts if part.label not in scene.world.ground_classes]


def _solid_label(parts: list[Part], grid: VoxelGrid, grid_from_world: RigidTransform) -> Bytes:
    """Class of the solid that holds each voxel's centre; the first part wins where solids overlap."""
    label = np.zeros(grid.shape, np.uint8)
    axes = grid.axis_centres()
    origin = np.asarray(grid.origin)
    for part in parts:
        if not part.solid:
            continue
        corners = grid_from_world.apply(part.corners)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        box = tuple(slice(*np.searchsorted(axis, (a, b))) for axis, a, b in zip(axes, low, high, strict=True))
        if any(where.stop <= where.start for where in box):
            continue
        normals, offsets = part.planes()
        normals = normals @ grid_from_world.rotation.T
        offsets = offsets + normals @ grid_from_world.translation
        first = np.array([where.start for where in box])
        last = np.array([where.stop for where in box])
        fill_convex(normals, offsets, first, last, origin, grid.voxel_size, part.label, label)
    return label


def _surface_label(parts: list[Part], grid: VoxelGrid, grid_from_world: RigidTransform) -> Bytes:
    """Class with the largest surface in each voxel."""
    if not parts:
        return np.zeros(grid.shape, np.uint8)
    corners = grid_from_world.apply(np.concatenate([part.corners for part in parts]))
    classes = np.repeat(np.array([part.label for part in parts], np.uint8), [len(part.corners) for part in parts])
    low = np.asarray(grid.origin)
    high = low + grid.voxel_size * np.asarray(grid.shape)
    touching = np.all((corners.max(axis=1) >= low) & (corners.min(axis=1) <= high), axis=-1)
    return most_surface(corners[touching], classes[touching], grid)


def most_surface(corners: Doubles, classes: Bytes, grid: VoxelGrid) -> Bytes:
    """Class with the largest surface in each voxel [X, Y, Z], of triangles [F, 3, 3] with classes [F]."""
    order = np.argsort(classes, kind="stable")
    names, start = np.unique(classes[order], return_index=True)
    triangles = np.ascontiguousarray(corners[order]), np.append(start, len(classes)), names
    label, lattice = np.zeros(grid.shape, np.uint8), (np.asarray(grid.origin), grid.voxel_size, np.asarray(grid.shape))
    vote_triangles(*triangles, grid.voxel_size / SAMPLES_PER_VOXEL, *lattice, label.reshape(-1))
    return label


def _visibility(
    scene: Scene, camera: Camera, world_from_camera: RigidTransform, grid: VoxelGrid, grid_from_camera: RigidTransform
) -> tuple[Mask, Mask]:
    rows, rays, distance = _centre_rays(camera, grid, tuple(grid_from_camera.matrix.ravel().tolist()))
    directions = turned(rays, world_from_camera.rotation)
    origins = np.broadcast_to(world_from_camera.translation.astype(np.float32), directions.shape)
    in_view, visible = np.zeros((2, int(np.prod(grid.shape))), np.bool_)
    in_view[rows] = True
    visible[rows] = ~scene.rays.blocked(origins, directions, distance)
    # A surface voxel's centre mostly lies behind its own surface: those count that a pixel's ray ends in.
    for finer in (1, 2):  # between the pixel centres, too: far voxels are smaller than pixels
        fine = camera.resized(finer * camera.width, finer * camera.height)
        depth = trace_view(scene, fine, world_from_camera).depth
        rays = pixel_directions(fine)
        ends = grid_from_camera.apply((rays * (depth / rays[..., 2])[..., None])[np.isfinite(depth)])
        index, inside = (np.asarray(part) for part in grid.index_of(ends.astype(np.float64)))
        visible[np.ravel_multi_index(tuple(index[inside].T), grid.shape)] = True
    visible &= in_view
    return in_view.reshape(grid.shape), visible.reshape(grid.shape)


@lru_cache(maxsize=2)
def _centre_rays(camera: Camera, grid: VoxelGrid, grid_from_camera: tuple[float, ...]) -> tuple[Ints, Floats, Floats]:
    """Voxels whose centre is in view, unit directions to them in the optical frame, distances; the same every frame."""
    pose = RigidTransform.from_matrix(np.array(grid_from_camera).reshape(4, 4))
    centres = pose.inverse().apply(grid.centres().reshape(-1, 3))
    rows = np.flatnonzero(np.asarray(camera.project(centres)[1]))
    rays = centres[rows]
    distance = np.linalg.norm(rays, axis=-1)
    return rows, (rays / distance[:, None]).astype(np.float32), distance.astype(np.float32)
