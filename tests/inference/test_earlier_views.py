"""Images of other moments: where places look at them, and which ones are taken."""

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.earlier_views import KEPT, ViewMemory
from scene_completion_ros.inference.lookup_kernel import write_lookups
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.volume_pose import Lookups, cell_lookups, parallax

SECOND = 1_000_000_000


@pytest.mark.parametrize("stride", [1, 2])
def test_the_compiled_lookups_are_those_of_the_readable_ones(stride: int) -> None:
    """For a camera between the places, some of which lie behind it or beside its image, or are seen as from now."""
    grid, camera = VoxelGrid((-1.0, -3.0, -2.0), 0.4, (21, 17, 9)), Camera(100.0, 90.0, 70.0, 30.0, 128, 64)
    turn = np.asarray(cv2.Rodrigues(np.array([0.1, -0.3, 0.05]))[0])
    pose = DEFAULT_GRID_FROM_CAMERA @ RigidTransform(turn, np.array([0.3, -0.2, 1.5]))
    matrix = pose.matrix.astype(np.float32)[None]
    expected, now = cell_lookups(grid, stride, camera, PointCodeSpec(), matrix, np.ones(1, np.float32)), ahead(1.0)
    counts = parallax(grid, stride, matrix, now.matrix.astype(np.float32)[None], np.ones(1, np.float32))
    assert 0.1 < expected.in_view.mean() < 0.9 and counts.min() < 0.1 and counts.max() > 0.9
    expected = expected._replace(in_view=expected.in_view * counts)
    found = Lookups(*(np.full_like(part[0], np.nan) for part in expected))
    write_lookups(found, grid, stride, camera, PointCodeSpec(), pose, now)
    for one, other, tolerance in zip(found, expected, (1e-5, 1e-5, 1e-3), strict=True):
        np.testing.assert_allclose(one, other[0], atol=tolerance)


def test_an_image_from_the_same_direction_says_nothing_new() -> None:
    """Of a place 5 m ahead: nothing from 5 m behind; from 5 m aside, at 45°, all; from 0.87 m aside, at 9.87°, 62 %."""
    grid = VoxelGrid((4.5, -0.5, -0.5), 1.0, (1, 1, 1))
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, 3] = [-5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.87, 0.0]
    counts = parallax(grid, 1, poses, np.tile(np.eye(4), (3, 1, 1)), np.ones(3))
    np.testing.assert_allclose(counts.ravel(), [0.0, 1.0, 0.62], atol=0.01)


def ahead(metres: float, degrees: float = 0.0) -> RigidTransform:
    """A camera so far down its road, turned to the right."""
    turn = np.asarray(cv2.Rodrigues(np.array([0.0, np.radians(degrees), 0.0]))[0])
    return RigidTransform(turn, np.array([0.0, 0.0, metres]))


def numbered(number: int) -> np.ndarray:
    return np.full((3, 2, 2), number, np.float32)


def test_images_from_elsewhere_are_chosen_the_newest_first() -> None:
    """A metre each second: of the images 0 to 7 m down the road, from 8 m on those are taken 2 m and 4 m before."""
    memory = ViewMemory()
    for metre in range(8):
        memory.add(numbered(metre), ahead(metre), metre * SECOND)
    chosen = memory.chosen(ahead(8.0), 8 * SECOND, 2)
    assert [one.view[0, 0, 0] for one in chosen] == [6.0, 4.0]
    np.testing.assert_allclose([one.now_from_then.translation[2] for one in chosen], [-2.0, -4.0])
    assert not memory.chosen(ahead(8.0), 8 * SECOND, 0)
    assert not memory.chosen(ahead(8.0, 90.0), 8 * SECOND, 2)  # they look elsewhere
    assert not memory.chosen(ahead(8.0 + 4 * KEPT), 8 * SECOND, 2)  # they were taken too far away


def test_an_image_that_stands_is_kept_once() -> None:
    memory = ViewMemory()
    for second in range(2 * KEPT):
        memory.add(numbered(second), ahead(0.01 * second), second * SECOND)
    assert len(memory.chosen(ahead(3.0), 2 * KEPT * SECOND, 2)) == 1


@pytest.mark.parametrize(
    ("metres", "second"), [(200.0, 4), (4.0, 0), (4.0, 60)], ids=["a leap", "time goes back", "a pause"]
)
def test_nothing_of_the_past_survives_a_jump(metres: float, second: int) -> None:
    memory = ViewMemory()
    for number in range(4):
        memory.add(numbered(number), ahead(number), number * SECOND)
    assert memory.chosen(ahead(4.0), 4 * SECOND, 1)
    assert not memory.chosen(ahead(metres), second * SECOND, 1)
    assert not memory.chosen(ahead(4.0), 4 * SECOND, 1)
