from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.report.ply import exposed_faces, write_ply
from tests.report.scenes import COLOURS, street


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [V, 3], colours [V, 3] and triangles [T, 3] of the files that are written here."""
    data = path.read_bytes()
    head, _, body = data.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    sizes = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    vertex = np.dtype([("p", "<f4", 3), ("c", "u1", 3)])
    vertices = np.frombuffer(body, vertex, sizes["vertex"])
    triangles = np.frombuffer(body, np.dtype([("n", "u1"), ("i", "<i4", 3)]), offset=vertices.nbytes)
    assert len(triangles) == sizes["face"]
    assert np.all(triangles["n"] == 3)
    return vertices["p"], vertices["c"], triangles["i"]


def test_only_faces_towards_free_space_are_kept() -> None:
    voxels = street()
    occupied = np.zeros(np.array(voxels.grid.shape) + 2, dtype=bool)
    occupied[1:-1, 1:-1, 1:-1] = voxels.state >= 3
    expected = sum(np.count_nonzero(np.diff(occupied.astype(np.int8), axis=axis)) for axis in range(3))
    corners, owners = exposed_faces(voxels)
    assert corners.shape == (expected, 4, 3)
    centre = voxels.points_grid()[owners]
    assert np.allclose(np.abs(corners - centre[:, None]), 0.5 * voxels.grid.voxel_size, atol=1e-5)


def test_the_file_has_metric_places_and_colours(tmp_path: Path) -> None:
    voxels = street()
    write_ply(tmp_path / "voxels.ply", voxels)
    points, colours, triangles = read_ply(tmp_path / "voxels.ply")
    assert triangles.min() == 0
    assert triangles.max() == len(points) - 1
    wall = points[(colours == COLOURS[1]).all(axis=1)]
    assert wall.min(axis=0) == pytest.approx([4.0, 1.0, -1.6], abs=1e-5)
    assert wall.max(axis=0) == pytest.approx([5.0, 3.0, 2.0], abs=1e-5)
