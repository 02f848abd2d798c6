"""Ground maps and the dense grid, by hand."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.ground_map import FREE as FREE_CELL
from scene_completion_ros.mapping.ground_map import (
    OCCUPIED,
    UNKNOWN,
    GroundMap,
    GroundProjection,
    dense_grid_json,
    ignored_labels,
    voxels_to_bytes,
)
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.voxels.samples import (
    COMPLETED,
    FREE,
    INFERRED,
    NAMES,
    SURFACE,
    UNOBSERVED,
    bytes_to_state_and_label,
    some_voxels,
    voxels_of,
)

# x 0 to 1.5 m, y -1 (right) to 1 m (left), z -1 to 1 m; the ground lies 1 m below the camera, so that the voxels'
# centres are 0.25, 0.75, 1.25 and 1.75 m above it and the band below holds the second and the third.
ORIGIN, SIZE, SHAPE = (0.0, -1.0, -1.0), 0.5, (3, 4, 4)
ABOVE_GROUND = RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.0]))
BAND = (0.5, 1.5)
EXPECTED = [[0, 0, 100], [0, -1, 0], [-1, 0, 0], [0, 0, 0]]


def scene(**details: dict[tuple[int, int, int], float]) -> SemanticVoxels:
    state = np.full(SHAPE, FREE)
    state[2, 0, 1] = SURFACE
    state[0, 3, 3] = SURFACE  # above the band
    state[1, 1, 2] = INFERRED
    state[0, 2, 1] = UNOBSERVED
    state[2, 3, 0] = UNOBSERVED  # below the band
    return voxels_of(state, ORIGIN, SIZE, **details)  # type: ignore[arg-type]


def projected(voxels: SemanticVoxels, pose: RigidTransform = ABOVE_GROUND, **options: object) -> GroundMap:
    return GroundProjection(voxels.grid, pose, *BAND)(voxels, **options)  # type: ignore[arg-type]


def turned(axis: tuple[float, float, float], degrees: float, translation: object = (0, 0, 0)) -> RigidTransform:
    half = np.radians(degrees) / 2
    return RigidTransform.from_quaternion([*(np.sin(half) * np.asarray(axis)), np.cos(half)], translation)


def test_a_cell_is_a_column_of_the_band() -> None:
    ground = projected(scene())
    assert (ground.origin, ground.resolution, ground.cells.dtype) == ((0.0, -1.0), 0.5, np.int8)
    np.testing.assert_array_equal(ground.cells, EXPECTED)
    nothing = projected(voxels_of(np.full(SHAPE, FREE), ORIGIN, SIZE))
    np.testing.assert_array_equal(nothing.cells, np.zeros((4, 3)))
    shifted = projected(scene(), RigidTransform(np.eye(3), np.array([10.1, -3.3, 1.0])))
    assert shifted.origin == pytest.approx((10.1, -4.3))
    np.testing.assert_array_equal(shifted.cells, EXPECTED)


def test_obstacles_stand_on_the_ground_that_was_seen() -> None:
    """On a step of half a metre the obstacle at 0.75 m is too low, and what was above the band is in it."""
    x, y = np.meshgrid(np.arange(0.1, 1.5, 0.2), np.arange(-0.95, 1.0, 0.2))
    expected = np.array(EXPECTED)
    expected[0, 2], expected[3, 0], expected[2, 0] = 0, 100, 0
    for rotation in (np.eye(3), turned((1.0, 0.0, 0.0), 0.3).rotation):  # looked up alike with a tilted grid
        step = np.stack([x, y, np.full_like(x, 0.5)], axis=-1).reshape(-1, 3)
        pose = RigidTransform(rotation, ABOVE_GROUND.translation)
        np.testing.assert_array_equal(projected(scene(), pose, ground=step).cells[:4, :3], expected)
    np.testing.assert_array_equal(projected(scene(), ground=step + (9.0, 0.0, 0.0)).cells, EXPECTED)


def test_ground_just_outside_of_the_map_is_that_of_the_next_cell_alone() -> None:
    state = np.full(SHAPE, FREE)
    state[:, :, 1] = SURFACE  # too low on a step of half a metre
    expected = np.full((4, 3), 100)
    expected[2, 2] = 0
    to_the_right = np.array([[1.7, 0.25, 0.5]])  # of the last cell of the row
    np.testing.assert_array_equal(projected(voxels_of(state, ORIGIN, SIZE), ground=to_the_right).cells, expected)


def test_ignored_classes_are_no_obstacles() -> None:
    state = np.full(SHAPE, FREE)
    state[0, 0, 1], state[1, 1, 1], state[2, 2, 1] = SURFACE, COMPLETED, SURFACE
    voxels = voxels_of(state, ORIGIN, SIZE, labels={(0, 0, 1): 0, (1, 1, 1): 0, (2, 2, 1): 2})
    labels = ignored_labels("road", NAMES)
    expected = np.zeros((4, 3))
    expected[1, 1], expected[2, 2] = -1, 100  # completed road was not seen
    np.testing.assert_array_equal(projected(voxels, ignored=labels).cells, expected)


POSES = [
    turned((0, 0, 1), 30, (1, 2, 1.0)),
    turned((0, 0, 1), -40, (0, 0, 1.2)),
    turned((0, 1, 0), 7, (0, 0, 1.0)),
    turned((1, 0, 0), 15, (0, 0, 1.1)) @ turned((0, 0, 1), 200),
]


def ground_cells_reference(voxels, upright_from_grid, band, ground, ignored, height) -> NDArray[np.int8]:
    """The cells of a `GroundMap` above ground of one height, by points in the middle of its cells and of voxels."""
    grid, size, state = voxels.grid, voxels.grid.voxel_size, voxels.state.copy()
    passable = np.isin(voxels.label, ignored)
    at = tuple(voxels.index[passable].T)
    state[at] = np.where(state[at] == SURFACE, FREE, INFERRED)
    corners = np.array(grid.origin) + np.argwhere(np.ones((2, 2, 2))) * np.array(grid.shape) * size
    # Levels one voxel apart, from the lowest corner of the grid on.
    levels = np.arange(upright_from_grid.apply(corners)[:, 2].min() + size / 2, band[1] + 1e-6, size)
    y, x = (np.indices(ground.cells.shape) + 0.5) * size + np.reshape(ground.origin[::-1], (2, 1, 1))
    above = levels[levels >= band[0] - 1e-6][:, None, None] + height
    points = np.stack(np.broadcast_arrays(x, y, above), axis=-1)
    index, inside = grid.index_of(upright_from_grid.inverse().apply(points))
    index = np.where(inside[..., None], index, 0)
    found = np.where(inside, state[index[..., 0], index[..., 1], index[..., 2]], UNOBSERVED)
    cells = np.where((found == FREE).all(axis=0), FREE_CELL, UNKNOWN).astype(np.int8)
    cells[(found >= SURFACE).any(axis=0)] = OCCUPIED
    points = upright_from_grid.apply(voxels.points_grid()[~passable].astype(np.float64))
    points = points[np.abs(points[:, 2] - height - np.mean(band)) <= np.ptp(band) / 2 + 1e-6]
    column, row = np.floor((points[:, :2] - ground.origin) / size).astype(int).T
    cells[row, column] = OCCUPIED
    return cells


@pytest.mark.parametrize("height", [None, 0.27])
@pytest.mark.parametrize("pose", POSES)
def test_a_rotated_grid_loses_no_obstacle_and_makes_up_no_free_space(
    pose: RigidTransform, height: float | None
) -> None:
    rng = np.random.default_rng(3)
    grid = VoxelGrid((0.0, -4.0, -1.0), 0.2, (40, 40, 12))
    state = rng.choice([SURFACE, COMPLETED, INFERRED, UNOBSERVED, FREE], size=grid.shape, p=[0.005] * 4 + [0.98])
    labels = {(i, j, k): rng.integers(3) for i, j, k in np.argwhere(state >= SURFACE).tolist()}
    voxels = voxels_of(state, grid.origin, grid.voxel_size, labels=labels)
    plane = np.stack(np.meshgrid(np.arange(-20, 20, 0.4), np.arange(-20, 20, 0.4), height or 0.0), axis=-1)
    ground = projected(voxels, pose, ignored=[1], ground=None if height is None else plane.reshape(-1, 3))
    expected = ground_cells_reference(voxels, pose, BAND, ground, [1], height or 0.0)
    np.testing.assert_array_equal(ground.cells, expected)
    assert all((expected == value).sum() > 20 for value in (UNKNOWN, FREE_CELL, OCCUPIED))


def test_state_and_class_come_back_and_more_classes_than_fit_are_refused() -> None:
    voxels = some_voxels(500, classes=126)
    state, label = bytes_to_state_and_label(voxels_to_bytes(voxels))
    assert voxels.label.max() == 125
    np.testing.assert_array_equal(state, voxels.state)
    np.testing.assert_array_equal(label[tuple(voxels.index.T)], voxels.label)
    assert label[voxels.state < SURFACE].max() == 0
    voxels = some_voxels(10, classes=127)
    with pytest.raises(GridError, match=r"127 classes where .* at most 126"):
        voxels_to_bytes(voxels)


def test_the_description_places_every_voxel() -> None:
    state = np.array([[[UNOBSERVED, FREE, INFERRED], [SURFACE, COMPLETED, SURFACE]]])
    voxels = voxels_of(state, (2.0, -1.0, -0.5), 0.5, labels={(0, 1, 0): 0, (0, 1, 1): 1, (0, 1, 2): 2})
    info = json.loads(dense_grid_json(voxels.grid, voxels.grid_from_camera))
    assert (info["shape"], info["voxel_size"], info["origin"]) == ([1, 2, 3], 0.5, [2.0, -1.0, -0.5])
    assert np.reshape(info["grid_from_camera"], (4, 4)).tolist() == voxels.grid_from_camera.matrix.tolist()
    # The centre (2.25, -0.75, -0.25) of the grid is 0.75 m to the right, 0.25 m below and 2.25 m ahead.
    assert info["first_centre"] == pytest.approx([0.75, 0.25, 2.25])
    assert info["steps"] == [[0.0, 0.0, 0.5], [-0.5, 0.0, 0.0], [0.0, -0.5, 0.0]]
    centres = np.asarray(info["first_centre"]) + voxels.index @ np.asarray(info["steps"])
    np.testing.assert_allclose(centres, voxels.points_camera(), atol=1e-6)
    assert info["layout"] == "data[(x * shape[1] + y) * shape[2] + z]"
    data = voxels_to_bytes(voxels).tobytes()
    for (x, y, z), state in np.ndenumerate(voxels.state):
        byte = np.array([data[(x * 2 + y) * 3 + z]], dtype=np.uint8)
        assert bytes_to_state_and_label(byte)[0] == state
