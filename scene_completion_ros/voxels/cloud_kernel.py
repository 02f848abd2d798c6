"""Voxels as the points of ``cloud``, compiled: one pass over the voxels into memory that a message can keep."""

import functools

import numpy as np
from numba import prange
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes
from scene_completion_ros.geometry.grids import DEFAULT_GRID
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.jit import kernel, kernel_threads
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE
from scene_completion_ros.voxels.colours import class_colour_table, height_colours
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

WORDS = VOXEL_CLOUD_DTYPE.itemsize // 4


def write_cloud(
    voxels: SemanticVoxels,  # completed voxels with N occupied ones
    out: Bytes,  # uint8 [24 N], takes the points
    # Pose of the grid in the frame of the points; None for the camera's optical frame.
    frame_from_grid: RigidTransform | None = None,
    *,
    threads: int | None = None,  # CPU threads; None for all that this process may use
) -> None:
    """Write occupied voxels as points of ``VOXEL_CLOUD_DTYPE``.

    Voxel centres are in metres. The colour is that of the class, or of the height where there is only one class. Then
    follow probability, label, state, and confidence scaled to 0..255.
    """
    pose = voxels.grid_from_camera.inverse() if frame_from_grid is None else frame_from_grid
    grid = voxels.grid
    centres = [  # along each axis, as `SemanticVoxels.points_grid` rounds them
        (start + (np.arange(size) + 0.5) * grid.voxel_size).astype(np.float32)
        for start, size in zip(grid.origin, grid.shape, strict=True)
    ]
    by_height = len(voxels.class_colours) == 1
    rgb = height_colours(centres[2]) if by_height else class_colour_table(voxels.class_colours)
    red, green, blue = rgb.astype(np.uint32).T
    # Contiguous, or the kernel would be compiled once more for arrays that are not.
    names = ("index", "state", "probability", "label", "confidence")
    index, *of_voxels = (np.ascontiguousarray(getattr(voxels, name)) for name in names)
    place = *centres, pose.rotation.astype(np.float32), pose.translation.astype(np.float32)
    colours = (red << 16) | (green << 8) | blue
    written = out.view(np.float32).reshape(-1, WORDS), out.view(np.uint32).reshape(-1, WORDS)
    with kernel_threads(threads):
        _write_points(index, *place, colours, by_height, *of_voxels, *written)


def cloud_of(voxels: SemanticVoxels) -> NDArray[np.void]:
    """Occupied voxels as points [N] of ``VOXEL_CLOUD_DTYPE`` in the camera's optical frame; see `write_cloud`."""
    cloud = np.empty(len(voxels), VOXEL_CLOUD_DTYPE)
    write_cloud(voxels, cloud.view(np.uint8))
    return cloud


@functools.cache
def compile_kernel() -> None:
    """Compile what `write_cloud` needs, or load it, which its first call would do otherwise."""
    write_cloud(SemanticVoxels.nothing(DEFAULT_GRID), np.zeros(0, np.uint8))


@kernel()
def _write_points(  # type: ignore[no-untyped-def] # numba finds the types
    index, x, y, z, rotation, translation, rgb, by_height, state, probability, label, confidence, reals, words
):
    for point in prange(len(index)):
        i, j, k = index[point, 0], index[point, 1], index[point, 2]
        for axis in range(3):
            turned = rotation[axis, 0] * x[i] + rotation[axis, 1] * y[j] + rotation[axis, 2] * z[k]
            reals[point, axis] = turned + translation[axis]
        words[point, 3] = rgb[k] if by_height else rgb[label[point]]
        reals[point, 4] = probability[point]
        share = np.rint(min(max(confidence[point], np.float32(0.0)), np.float32(1.0)) * np.float32(255.0))
        found = np.uint32(label[point]) | np.uint32(state[i, j, k]) << np.uint32(8)
        words[point, 5] = found | np.uint32(share) << np.uint32(16)  # bytes in the order of the layout
