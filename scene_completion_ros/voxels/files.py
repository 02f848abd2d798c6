"""Completed voxels as a NumPy archive (.npz): what ``scene-completion complete`` writes.

``numpy.load(path, allow_pickle=False)`` reads it:

| array | type, shape | |
|---|---|---|
| ``format``, ``version`` | text, int64 | `FORMAT` and `VERSION` |
| ``state`` | uint8 [X, Y, Z] | 0 unobserved, 1 free (seen), 2 free (inferred), 3 surface, 4 completed |
| ``index`` | int32 [N, 3] | the occupied voxels: those of state 3 and 4 |
| ``probability`` | float32 [N] | of being occupied, calibrated |
| ``label`` | uint8 [N] | index into ``class_names`` |
| ``confidence`` | float32 [N] | in the label, 0 to 1 |
| ``class_names``, ``class_colours`` | text [K], uint8 [K, 3] | RGB |
| ``origin``, ``voxel_size`` | float64 [3], float64 | lower corner of voxel (0, 0, 0) and edge of a voxel, metres |
| ``grid_frame``, ``camera_frame`` | text | frame of the grid (x forward, y left, z up); empty: an image names none |
| ``grid_from_camera`` | float64 [4, 4] | pose of the optical frame (x right, y down, z forward) in the grid |
| ``stamp_ns`` | int64 | time of the image, nanoseconds; 0 where it has none |
| ``probability_grid`` | float16 [X, Y, Z] | of every voxel, calibrated; 0 outside of the view |
| ``alpha_grid`` | float16 [X, Y, Z] | the network's opacity over one voxel edge, likewise |
| ``depth`` | float32 [h, w] | metres along the optical axis; NaN where the image does not reach |
| ``transmittance`` | float16 [h, w] | part of each ray that meets nothing; near 1, ``depth`` is the farthest there is |
| ``depth_intrinsics`` | float64 [3, 3] | of the pinhole camera of ``depth`` |
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from scene_completion_ros.arrays import Doubles, Floats, Halves
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

FORMAT = "scene_completion_ros voxels"
VERSION = 1


@dataclass(frozen=True, eq=False)
class ImageDetails:
    """What is known of one image beyond its voxels, as ``scene-completion complete`` stores it."""

    probability_grid: Halves  # float16 [X, Y, Z], calibrated probability of every voxel
    alpha_grid: Halves  # float16 [X, Y, Z], the network's opacity over one voxel edge
    depth: Floats  # float32 [h, w], metres along the optical axis; NaN where the image does not reach
    transmittance: Halves  # float16 [h, w], part of each ray that leaves the grid
    depth_intrinsics: Doubles  # float64 [3, 3], of the pinhole camera of ``depth``


def npz_bytes(voxels: SemanticVoxels, details: ImageDetails) -> bytes:
    """The archive of the completed voxels of an image."""
    listed = ("state", "index", "probability", "label", "confidence")
    arrays: dict[str, Any] = {
        "format": np.str_(FORMAT),
        "version": np.int64(VERSION),
        **{name: getattr(voxels, name) for name in listed},
        "class_names": np.asarray(voxels.class_names, dtype=np.str_),
        "class_colours": np.asarray(voxels.class_colours, dtype=np.uint8),
        "origin": np.asarray(voxels.grid.origin, dtype=np.float64),
        "voxel_size": np.float64(voxels.grid.voxel_size),
        "grid_frame": np.str_(voxels.grid.frame),
        "camera_frame": np.str_(""),
        "grid_from_camera": voxels.grid_from_camera.matrix,
        "stamp_ns": np.int64(voxels.stamp_ns),
    }
    file = BytesIO()
    np.savez_compressed(file, **arrays, **vars(details))
    return file.getvalue()
