"""Voxels and ground that LiDAR knows without labels.

A voxel is free where rays pass, occupied where they return, and unknown otherwise. Rays graze the ground for metres.
Nothing that holds it is therefore free: against labelled voxels, that halves the occupied ones that rays call free.
"""

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Mask, Reals
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.jit import kernel

OCCUPIED = 1
STEP_M = 0.3  # between the places along a ray that are free
MARGIN_M = 0.6  # before the return, where nothing is known to be free: rays graze what they hit
_BLOCK_M, _LOW = 1.6, 0.1  # edge of the blocks whose lowest returns are the ground, and which share of these is lower
_FEWEST = 6  # returns of a block
_STEEPEST_M = 0.3  # that the ground may rise between neighbouring blocks: what is higher is a hedge, a car
_FARTHEST_M = 40.0
_GRAZED_M = 0.1  # above the ground, where the voxels that begin there are not free: it is rough


def scan_labels(points: Reals, sensor: Doubles, grid: VoxelGrid) -> Bytes:
    """Labels [X, Y, Z] of one scan: `OCCUPIED` where anything returned, otherwise `FREE` where a ray passed, `UNKNOWN`.

    `points`: returns [N, 3] in the grid's frame, metres; `sensor`: where the LiDAR stands there [3].
    """
    labels = np.full(grid.shape, UNKNOWN, np.uint8)
    place = np.asarray(sensor, np.float64), np.asarray(grid.origin), grid.voxel_size
    _march(np.ascontiguousarray(points, np.float64), *place, labels)
    cells, inside = grid.index_of(np.asarray(points, np.float64))
    labels[tuple(cells[inside].T)] = OCCUPIED
    return labels


@kernel(parallel=False)
def _march(points, sensor, origin, size, labels):  # type: ignore[no-untyped-def]
    """Marks the voxels of places along the rays as free."""
    start = (sensor - origin) / size
    for i in range(points.shape[0]):
        x, y, z = points[i, 0] - sensor[0], points[i, 1] - sensor[1], points[i, 2] - sensor[2]
        length = np.sqrt(x * x + y * y + z * z)
        for number in range(int(np.ceil((length - MARGIN_M) / STEP_M))):
            share = (length - MARGIN_M - number * STEP_M) / (length * size)
            a, b, c = start[0] + share * x, start[1] + share * y, start[2] + share * z
            if 0.0 <= a < labels.shape[0] and 0.0 <= b < labels.shape[1] and 0.0 <= c < labels.shape[2]:
                labels[int(a), int(b), int(c)] = FREE


def ground_of_scans(points: Reals, grid: VoxelGrid) -> Floats:
    """Heights of the ground [X, Y] in the grid, metres, by the lowest returns of blocks of columns; NaN if unknown.

    `points`: returns [N, 3] in the grid's frame, whose z axis points up, metres.
    """
    step = round(_BLOCK_M / grid.voxel_size)
    shape = tuple(-(-count // step) for count in grid.shape[:2])
    x, y = (np.floor((points[:, axis] - grid.origin[axis]) / (step * grid.voxel_size)) for axis in (0, 1))
    inside = (x >= 0) & (x < shape[0]) & (y >= 0) & (y < shape[1])
    inside &= np.hypot(points[:, 0], points[:, 1]) < _FARTHEST_M
    block, height = (x * shape[1] + y)[inside].astype(int), points[inside, 2]
    count = np.bincount(block, minlength=shape[0] * shape[1])
    known = count >= _FEWEST
    lowest = np.cumsum(count) - count + (_LOW * count).astype(int)
    coarse = np.full(len(count), np.inf, np.float32)
    coarse[known] = height[np.lexsort((height, block))][lowest[known]]
    coarse = coarse.reshape(shape)
    with np.errstate(invalid="ignore"):
        flat = coarse - cv2.erode(coarse, np.ones((3, 3), np.uint8)) < _STEEPEST_M
    coarse = np.where(flat, coarse, np.float32(np.nan))
    return coarse.repeat(step, axis=0).repeat(step, axis=1)[: grid.shape[0], : grid.shape[1]]


def grazed(ground: Floats, grid: VoxelGrid) -> Mask:
    """Voxels [X, Y, Z] that hold the ground [X, Y] or lie below; where it is unknown, it is as high as nearby."""
    if not np.isfinite(ground).any():
        return np.zeros(grid.shape, np.bool_)
    nearest = distance_transform_edt(np.isnan(ground), return_distances=False, return_indices=True)
    bottoms = grid.origin[2] + np.arange(grid.shape[2]) * grid.voxel_size
    return np.asarray(bottoms <= ground[tuple(nearest)][..., None] + _GRAZED_M)


def scan_truth(points: Reals, sensor: Doubles, camera: Camera) -> VoxelTruth:
    """What one scan knows of the default grid around a camera: nothing of classes, or of what hides what.

    `points`: returns [N, 3] in the camera's optical frame, metres; `sensor`: where the LiDAR stands there [3].
    """
    grid, pose = DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
    placed = np.asarray(pose.apply(points))
    labels = scan_labels(placed, pose.apply(sensor), grid)
    known = (labels == OCCUPIED) | ((labels == FREE) & ~grazed(ground_of_scans(placed, grid), grid))
    in_view = np.asarray(camera.project(pose.inverse().apply(grid.centres()))[1])
    return VoxelTruth("one LiDAR scan", grid, pose, labels == OCCUPIED, known, in_view)
