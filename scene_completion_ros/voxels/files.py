"""Completed voxels as a NumPy archive (.npz) that holds exactly what `SemanticVoxels` does; nothing in it is pickled.

| array | type, shape | |
|---|---|---|
| ``state`` | uint8 [X, Y, Z] | values of `VoxelState` |
| ``index`` | int32 [N, 3] | the occupied voxels |
| ``probability`` | float32 [N] | calibrated, of being occupied |
| ``label`` | uint8 [N] | index into ``class_names`` |
| ``confidence`` | float32 [N] | in the label, 0..1 |
| ``class_names``, ``class_colours`` | text [K], uint8 [K, 3] | RGB |
| ``origin``, ``voxel_size`` | float64 [3], float64 | metres, frame ``grid_frame`` (x forward, y left, z up) |
| ``grid_frame``, ``camera_frame`` | text | names of the frames of grid and image |
| ``grid_from_camera`` | float64 [4, 4] | pose of the optical frame in the grid |
| ``stamp_ns`` | int64 | of the image |
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


def npz_bytes(voxels: SemanticVoxels, camera_frame: str) -> bytes:
    """The archive of completed voxels.

    Args:
        voxels: The voxels.
        camera_frame: Name of the optical frame of their image.
    """
    file = BytesIO()
    np.savez_compressed(
        file,
        state=voxels.state,
        index=voxels.index,
        probability=voxels.probability,
        label=voxels.label,
        confidence=voxels.confidence,
        class_names=np.asarray(voxels.class_names, dtype=np.str_),
        class_colours=np.asarray(voxels.class_colours, dtype=np.uint8),
        origin=np.asarray(voxels.grid.origin, dtype=np.float64),
        voxel_size=np.float64(voxels.grid.voxel_size),
        grid_frame=np.str_(voxels.grid.frame),
        camera_frame=np.str_(camera_frame),
        grid_from_camera=voxels.grid_from_camera.matrix,
        stamp_ns=np.int64(voxels.stamp_ns),
    )
    return file.getvalue()


def read_npz(path: str | Path) -> tuple[SemanticVoxels, str]:
    """Read an archive that `npz_bytes` made.

    Args:
        path: The file; it may come from anywhere, as nothing in it is executed.

    Returns:
        The voxels, and the name of the optical frame of their image.

    Raises:
        SceneCompletionError: It cannot be read, or is no such archive.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            state = data["state"]
            pose = np.asarray(data["grid_from_camera"], dtype=np.float64)
            x, y, z = (float(value) for value in data["origin"])
            nx, ny, nz = (int(count) for count in state.shape)
            grid = VoxelGrid((x, y, z), float(data["voxel_size"]), (nx, ny, nz), str(data["grid_frame"]))
            voxels = SemanticVoxels(
                grid=grid,
                grid_from_camera=RigidTransform(pose[:3, :3], pose[:3, 3]),
                stamp_ns=int(data["stamp_ns"]),
                state=state,
                index=data["index"],
                probability=data["probability"],
                label=data["label"],
                confidence=data["confidence"],
                class_names=tuple(map(str, data["class_names"])),
                class_colours=tuple((int(r), int(g), int(b)) for r, g, b in data["class_colours"]),
            )
            return voxels, str(data["camera_frame"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        what = f"cannot be read as saved voxels: {error}"
        raise SceneCompletionError(what, where=str(path), cure="Give a file that ~/save wrote") from error
