"""Occupied voxels as a coloured triangle mesh in a binary PLY file, which MeshLab, Blender and CloudCompare open."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.voxels.colours import voxel_colours
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from scene_completion_ros.whole_files import write_whole

_VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 3)])
_TRIANGLE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])

# Corners of a unit cube's six faces, counter-clockwise seen from outside, by the step to the neighbour behind the face.
_FACES: tuple[tuple[tuple[int, int, int], tuple[tuple[int, int, int], ...]], ...] = (
    ((-1, 0, 0), ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0))),
    ((+1, 0, 0), ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1))),
    ((0, -1, 0), ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1))),
    ((0, +1, 0), ((0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0))),
    ((0, 0, -1), ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0))),
    ((0, 0, +1), ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))),
)


def exposed_faces(voxels: SemanticVoxels) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Faces between an occupied voxel and one that is not. `voxels`: completed voxels with N occupied ones.

    Returns corners of the faces, float32 [F, 4, 3], metres in the grid frame, counter-clockwise seen from outside; and
    the row of ``voxels.index`` that each face belongs to, int64 [F].
    """
    occupied = np.zeros(np.asarray(voxels.grid.shape) + 2, dtype=bool)
    occupied[tuple(voxels.index.T + 1)] = True
    corners, owners = [], []
    for step, unit_corners in _FACES:
        neighbour = voxels.index + 1 + np.asarray(step, dtype=np.int32)
        exposed = np.flatnonzero(~occupied[tuple(neighbour.T)])
        lattice = voxels.index[exposed, None, :] + np.asarray(unit_corners, dtype=np.int32)  # [F, 4, 3]
        corners.append(np.asarray(voxels.grid.origin) + lattice * voxels.grid.voxel_size)
        owners.append(exposed)
    return np.concatenate(corners).astype(np.float32), np.concatenate(owners)


def write_ply(path: str | Path, voxels: SemanticVoxels) -> None:
    """Write the occupied voxels as cubes, of which only faces towards unoccupied voxels are kept.

    Vertices are in the grid frame (x forward, y left, z up) in metres. Colours are those of the class, or of the height
    where there is only one class.
    """
    corners, owners = exposed_faces(voxels)
    colours = voxel_colours(voxels.label, voxels.points_grid()[:, 2], voxels.class_colours)
    vertices = np.zeros(4 * len(corners), dtype=_VERTEX)
    vertices["position"] = corners.reshape(-1, 3)
    vertices["colour"] = np.repeat(colours[owners], 4, axis=0)
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None, None]
    triangles = np.zeros(2 * len(corners), dtype=_TRIANGLE)
    triangles["count"] = 3
    triangles["corners"] = (first + np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)).reshape(-1, 3)
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"comment {len(voxels)} occupied voxels of {voxels.grid.voxel_size:g} m, frame {voxels.grid.frame}\n"
        f"element vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    write_whole(Path(path), header.encode("ascii") + vertices.tobytes() + triangles.tobytes())
