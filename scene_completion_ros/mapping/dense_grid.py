"""The whole voxel grid as one byte a voxel, and the description that a reader needs to decode it.

A byte holds the state and, of an occupied voxel, the class:

    0 unobserved    1 seen free    2 inferred free    3 + 2 * label surface    4 + 2 * label completed

so that 1 alone may clear, everything from 3 on is occupied, and of a grid without classes the byte is the `VoxelState`.
"""

import json

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

LAYOUT = "data[(x * shape[1] + y) * shape[2] + z]"
VALUES = {
    "0": "unobserved",
    "1": "free, seen",
    "2": "free, inferred",
    "3 + 2 * label": "occupied, surface",
    "4 + 2 * label": "occupied, completed",
}
_LARGEST_LABEL = (255 - VoxelState.COMPLETED) // 2


def voxels_to_bytes(voxels: SemanticVoxels) -> NDArray[np.uint8]:
    """One byte a voxel, uint8 [X, Y, Z], z fastest. Raises GridError for more classes than a byte holds."""
    if len(voxels.class_names) > _LARGEST_LABEL + 1:
        what = f"{len(voxels.class_names)} classes where a byte of the dense grid holds at most {_LARGEST_LABEL + 1}"
        raise GridError(what, where="voxel grid", cure="Read the labels from the point cloud of the voxels")
    dense = voxels.state.copy()
    dense[tuple(voxels.index.T)] += 2 * voxels.label
    return dense


def dense_grid_json(grid: VoxelGrid, grid_from_camera: RigidTransform | None) -> str:
    """How to decode the bytes and where their voxels lie, as JSON.

    Returns ``shape``, ``layout`` and ``values``. ``first_centre`` (metres) and ``steps`` (metres a voxel along x, y and
    z). They give the centre of a voxel as first_centre + x steps[0] + y steps[1] + z steps[2]. It is in the optical
    frame, or, without a pose of the camera, in that of the grid. The grid as its own file has it: ``origin``,
    ``voxel_size``, ``frame``, and, if there is one, ``grid_from_camera``. `grid_from_camera`: pose of the camera's
    optical frame in the grid; None where the bytes are published in the grid's own frame, in which cameras may move.
    """
    camera_from_grid = grid_from_camera.inverse() if grid_from_camera else RigidTransform.identity()
    pose = {"grid_from_camera": (grid_from_camera.matrix.reshape(-1) + 0.0).tolist()} if grid_from_camera else {}
    first = np.asarray(grid.origin) + 0.5 * grid.voxel_size
    # Adding 0 turns the negative zeros of rotations into zeros.
    return json.dumps(
        {
            "shape": list(grid.shape),
            "layout": LAYOUT,
            "values": VALUES,
            "first_centre": (camera_from_grid.apply(first) + 0.0).tolist(),
            "steps": (camera_from_grid.rotation.T * grid.voxel_size + 0.0).tolist(),
            "origin": list(grid.origin),
            "voxel_size": grid.voxel_size,
            "frame": grid.frame,
            **pose,
        }
    )
