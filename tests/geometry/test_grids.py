"""Voxel grids: indices, crops of the SSCBench ranges, and the YAML that describes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.geometry.grids import read_grid

GRID = VoxelGrid((1.0, -2.0, 0.5), 0.5, (4, 8, 3), "odd")


def test_centres_by_hand() -> None:
    centres = GRID.centres()
    assert centres.shape == (4, 8, 3, 3) and centres.dtype == np.float32
    np.testing.assert_array_equal(centres[0, 0, 0], [1.25, -1.75, 0.75])
    np.testing.assert_array_equal(centres[3, 7, 2], [2.75, 1.75, 1.75])
    np.testing.assert_array_equal(centres[1, 0, 0] - centres[0, 0, 0], [0.5, 0.0, 0.0])


def test_index_of_torch_agrees_with_numpy() -> None:
    points = np.random.default_rng(2).uniform(-10, 10, (50, 2, 3)).astype(np.float32)
    index, inside = GRID.index_of(points)
    index_torch, inside_torch = GRID.index_of(torch.as_tensor(points))
    assert index_torch.dtype == torch.int64 and inside_torch.dtype == torch.bool
    np.testing.assert_array_equal(index_torch.numpy(), index)
    np.testing.assert_array_equal(inside_torch.numpy(), inside)


DOCUMENT = {
    "origin": [0, -25.6, -2],
    "voxel_size": 0.2,
    "shape": [256, 256, 32],
    "grid_from_camera": [0, 0, 1, 0.27, -1, 0, 0, 0.06, 0, -1, 0, -0.08, 0, 0, 0, 1],
}


def write(folder: Path, document: object) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_read_grid(tmp_path: Path, nested: bool) -> None:
    matrix = np.reshape(DOCUMENT["grid_from_camera"], (4, 4))
    document = {**DOCUMENT, "grid_from_camera": matrix.tolist()} if nested else {**DOCUMENT, "frame": "velodyne"}
    grid, grid_from_camera = read_grid(write(tmp_path, document))
    assert grid == VoxelGrid((0.0, -25.6, -2.0), 0.2, (256, 256, 32), "camera_forward" if nested else "velodyne")
    np.testing.assert_allclose(grid_from_camera.matrix, matrix, atol=1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [256, 0, 32]}, "shape"),
        ({"grid_from_camera": [1.0] * 16}, "grid_from_camera.*last row"),
        ({"voxelsize": 0.2}, "unknown key 'voxelsize'"),
        ({"voxel_size": -0.2}, "voxel_size.*is not a length from 0.0001 to 10000 m"),
        ({"origin": [0, 1e300, 0]}, "origin.*is not three numbers within"),
        ({"shape": [100000] * 3}, "shape: 100000x100000x100000 are more than 268,435,456 voxels"),
    ],
)
def test_malformed_grid_files_name_file_and_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """Missing fields and those of another type are tested with the documents of all readers."""
    path = write(tmp_path, DOCUMENT | change)
    with pytest.raises(GridError, match=message) as caught:
        read_grid(path)
    assert str(path) in str(caught.value)
