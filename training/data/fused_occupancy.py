"""Occupancy evidence on a voxel grid, fused from the stereo depth of many posed frames.

A voxel that the depth points of a frame fall into collects evidence for "occupied"; one that a frame looks through,
well in front of what it measured, collects evidence for "free". Frames that are nearer weigh more, because the error
of stereo depth grows with the square of the distance. This sees behind the obstacles of any single image, as soon as
the drive passes them, without LiDAR and without labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_training.data.stereo import depth_deviation

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _jit(function: _Function) -> _Function:
    compiled: _Function = numba.njit(cache=True, fastmath=False)(function)
    return compiled


@dataclass(frozen=True, eq=False)
class DepthView:
    """Stereo depth seen from one pose.

    Attributes:
        depth: z-depth [H, W] in metres, 0 where unknown.
        matrix: Intrinsics [3, 3] of the depth image.
        grid_from_camera: Pose of the view in the grid's frame.
        focal_baseline: Focal length × baseline of the full-size pair, pixel metres (gives the depth's error).
        trust: Factor on this view's evidence for free space; above one for the frame the grid belongs to, whose view
            of moving objects counts more.
    """

    depth: NDArray[np.float32]
    matrix: NDArray[np.float64]
    grid_from_camera: RigidTransform
    focal_baseline: float
    trust: float = 1.0


@_jit
def _splat(
    points: NDArray[np.float32],
    weights: NDArray[np.float32],
    origin: NDArray[np.float32],
    size: float,
    view: int,
    last: NDArray[np.int16],
    pixels: NDArray[np.int16],
    hits: NDArray[np.float32],
) -> None:
    """Adds one view's hit evidence: each view counts once per voxel, from its second depth pixel on."""
    nx, ny, nz = hits.shape
    for i in range(points.shape[0]):
        x = int(np.floor((points[i, 0] - origin[0]) / size))
        y = int(np.floor((points[i, 1] - origin[1]) / size))
        z = int(np.floor((points[i, 2] - origin[2]) / size))
        if x < 0 or y < 0 or z < 0 or x >= nx or y >= ny or z >= nz:
            continue
        if last[x, y, z] != view:
            last[x, y, z] = view
            pixels[x, y, z] = 0
        pixels[x, y, z] += 1
        if pixels[x, y, z] == 2:
            hits[x, y, z] += weights[i]


@_jit
def _carve(
    centres: NDArray[np.float32],
    rotation: NDArray[np.float32],
    translation: NDArray[np.float32],
    intrinsics: NDArray[np.float32],
    nearest: NDArray[np.float32],
    margin: NDArray[np.float32],
    trust: float,
    least: float,
    free: NDArray[np.float32],
) -> None:
    """Adds one view's evidence for free space to voxel centres in front of what the view measured."""
    height, width = nearest.shape
    for i in range(centres.shape[0]):
        x, y, z = centres[i, 0], centres[i, 1], centres[i, 2]
        depth = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + translation[2]
        if depth < least:
            continue
        right = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z + translation[0]
        down = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z + translation[1]
        u = int(np.floor(intrinsics[0] * right / depth + intrinsics[2] + 0.5))
        v = int(np.floor(intrinsics[1] * down / depth + intrinsics[3] + 0.5))
        if u < 0 or v < 0 or u >= width or v >= height or nearest[v, u] <= 0.0:
            continue
        if depth < nearest[v, u] - margin[v, u]:
            free[i] += trust


def _nearest_depth(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smallest depth of the 3×3 neighbourhood where the pixel itself is known, so that edges carve nothing away."""
    filled = np.where(depth > 0, depth, np.float32(1e6))
    return np.where(depth > 0, cv2.erode(filled, np.ones((3, 3), np.uint8)), 0).astype(np.float32)


def fuse_occupancy(
    views: list[DepthView],
    grid: VoxelGrid,
    *,
    free_samples: int,
    generator: np.random.Generator,
    depths: tuple[float, float] = (0.5, 60.0),
    free_factor: float = 0.3,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Fuses depth views into evidence at voxel centres.

    Args:
        free_samples: Voxels without a hit that are tested for free space, drawn at random.
        depths: Nearest and farthest depth pixels that count, metres.
        free_factor: Weight of free against hit evidence: rays that graze a surface pass through its voxels too.

    Returns:
        Voxel centres [N, 3] in the grid's frame, occupancy target [N] in 0..1 and evidence [N] (sum of weights).
    """
    hits = np.zeros(grid.shape, np.float32)
    last = np.full(grid.shape, -1, np.int16)
    pixels = np.zeros(grid.shape, np.int16)
    origin = np.asarray(grid.origin, np.float32)
    least, most = depths
    for number, view in enumerate(views):
        valid = (view.depth > least) & (view.depth < most)
        v, u = np.nonzero(valid)
        z = view.depth[v, u]
        ray = np.stack(
            [(u - view.matrix[0, 2]) / view.matrix[0, 0], (v - view.matrix[1, 2]) / view.matrix[1, 1], np.ones(len(u))],
            axis=-1,
        )
        points = np.asarray(view.grid_from_camera.apply(ray * z[:, None]), np.float32)
        weights = 1.0 / (1.0 + (depth_deviation(z, view.focal_baseline) / np.float32(grid.voxel_size)) ** 2)
        _splat(points, weights.astype(np.float32), origin, grid.voxel_size, number, last, pixels, hits)
    hit = np.flatnonzero(hits)
    drawn = np.zeros(hits.size, np.bool_)  # a mask sorts millions of numbers in no time; np.unique takes seconds
    drawn[generator.integers(0, hits.size, free_samples)] = True
    drawn[hit] = False
    chosen = np.concatenate([hit, np.flatnonzero(drawn)])
    index = np.stack(np.unravel_index(chosen, grid.shape), axis=-1)
    centres = ((index + 0.5) * grid.voxel_size + origin).astype(np.float32)
    free = np.zeros(len(chosen), np.float32)
    for view in views:
        camera_from_grid = view.grid_from_camera.inverse()
        margin = 1.5 * grid.voxel_size + 1.5 * depth_deviation(view.depth, view.focal_baseline)
        _carve(
            centres,
            camera_from_grid.rotation.astype(np.float32),
            camera_from_grid.translation.astype(np.float32),
            view.matrix[[0, 1, 0, 1], [0, 1, 2, 2]].astype(np.float32),
            _nearest_depth(view.depth),
            margin.astype(np.float32),
            view.trust,
            least,
            free,
        )
    occupied = hits.ravel()[chosen]
    evidence = occupied + free_factor * free
    known = evidence > 0
    target = occupied[known] / evidence[known]
    return centres[known], target.astype(np.float32), evidence[known].astype(np.float32)
