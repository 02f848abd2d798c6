import dataclasses

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, RigidTransform, VoxelGrid
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

GRID = VoxelGrid((0.0, -2.0, -1.0), 0.5, (4, 8, 4))


def voxels(**fields: object) -> SemanticVoxels:
    index = np.array([[0, 0, 0], [3, 7, 1]], dtype=np.int32)
    values: dict[str, object] = {
        "grid": GRID,
        "grid_from_camera": DEFAULT_GRID_FROM_CAMERA,
        "stamp_ns": 7,
        "state": np.zeros(GRID.shape, dtype=np.uint8),
        "index": index,
        "probability": np.ones(2, dtype=np.float32),
        "label": np.zeros(2, dtype=np.uint8),
        "confidence": np.ones(2, dtype=np.float32),
    }
    return SemanticVoxels(**{**values, **fields})  # type: ignore[arg-type]


def test_points_are_the_grid_s_centres() -> None:
    scene = voxels()
    expected = GRID.centres()[tuple(scene.index.T)]
    np.testing.assert_allclose(scene.points_grid(), expected, atol=1e-6)
    assert scene.points_grid().dtype == np.float32
    assert len(scene) == 2


def test_points_in_the_optical_frame() -> None:
    # Forward 0.25, left -1.75, up -0.75 is right 1.75, down 0.75, ahead 0.25.
    np.testing.assert_allclose(voxels().points_camera()[0], [1.75, 0.75, 0.25], atol=1e-6)
    pose = RigidTransform.from_quaternion((0.1, -0.2, 0.3, 0.9273618495495703), (1.0, 2.0, 3.0))
    scene = voxels(grid_from_camera=pose)
    np.testing.assert_allclose(pose.apply(scene.points_camera().astype(float)), scene.points_grid(), atol=1e-5)


@pytest.mark.parametrize("name", ["state", "index", "probability", "label", "confidence"])
def test_contradicting_shapes_are_named(name: str) -> None:
    wrong = np.zeros((5, 5), dtype=getattr(voxels(), name).dtype)
    with pytest.raises(GridError, match="SemanticVoxels"):
        dataclasses.replace(voxels(), **{name: wrong})


def test_one_colour_a_class() -> None:
    with pytest.raises(GridError, match="2 class names but 1 colours"):
        voxels(class_names=("road", "car"))


def test_states_are_what_goes_over_the_wire() -> None:
    assert [state.value for state in VoxelState] == [0, 1, 2, 3, 4]
