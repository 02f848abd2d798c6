"""From points to voxels: pooling and dilation by hand and against SciPy, the field of view against projection."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.voxelisation import dilated, field_of_view, pool_points, voxel_classes
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform


def test_eight_points_of_a_voxel_by_hand() -> None:
    """One dense point of label 3 against five thin ones of label 7; two in between have no density."""
    density = np.array([20.0, 1.5, 1.5, 1.5, 1.5, 1.5, 0.0, 0.0]).reshape(2, 2, 2)
    labels = np.array([3, 7, 7, 7, 7, 7, 1, 1]).reshape(2, 2, 2)
    largest, label = pool_points(density, labels, spacing=0.1, factor=2)
    assert (largest.shape, largest[0, 0, 0]) == ((1, 1, 1), 20.0)
    # Opacities: 1 - exp(-2) = 0.865 against 5 (1 - exp(-0.15)) = 0.696.
    assert label[0, 0, 0] == 3
    density[0, 0, 0] = 10.0  # 1 - exp(-1) = 0.632
    assert pool_points(density, labels, spacing=0.1, factor=2)[1][0, 0, 0] == 7


def test_points_without_density_vote_for_a_label_of_their_own_voxel() -> None:
    labels = np.array([5, 2, 9, 9]).reshape(1, 1, 4).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(pool_points(np.zeros((2, 2, 4)), labels, 0.1, 2)[1], [[[2, 9]]])


def test_one_point_a_voxel_stays_what_it_is() -> None:
    random = np.random.default_rng(0)
    density, labels = random.random((4, 5, 3), dtype=np.float32), random.integers(0, 19, (4, 5, 3))
    largest, label = pool_points(density, labels, spacing=0.2, factor=1)
    np.testing.assert_array_equal(largest, density)
    np.testing.assert_array_equal(label, labels)
    with pytest.raises(GridError, match="2 points along a voxel"):
        pool_points(density, labels, 0.1, 2)


def test_dilation_reaches_the_corners_and_stops_at_the_border() -> None:
    volume = np.zeros((5, 5, 5))
    volume[0, 2, 4] = 3.0
    grown = dilated(volume)
    expected = np.zeros_like(volume)
    expected[:2, 1:4, 3:] = 3.0
    np.testing.assert_array_equal(grown, expected)
    assert volume.sum() == 3.0  # the input is as it was


@pytest.mark.parametrize("shape", [(7, 6, 5), (1, 4, 2)])
def test_dilation_against_scipy(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(1).normal(size=shape)
    expected = ndimage.maximum_filter(volume, size=3, mode="constant", cval=-np.inf)
    np.testing.assert_array_equal(dilated(volume), expected)
    np.testing.assert_array_equal(dilated(volume > 1), ndimage.binary_dilation(volume > 1, np.ones((3, 3, 3))))


def test_density_grows_and_classes_do_not() -> None:
    density, labels = np.zeros((1, 1, 5)), np.array([4, 5, 6, 0, 8])[None, None]
    density[0, 0, 2] = 0.2
    grown = voxel_classes(density, labels, cutoff=0.2)
    np.testing.assert_array_equal(grown[0, 0], [0, 5, 6, 0, 0])  # 3 is empty by its class, however dense it is
    np.testing.assert_array_equal(voxel_classes(density, labels, 0.2, dilate=False)[0, 0], [0, 0, 6, 0, 0])
    assert not voxel_classes(density, labels, cutoff=0.25).any()


def test_field_of_view_ends_at_the_pixel_edges() -> None:
    """A camera at the grid's left lower corner that looks along x; 1 m ahead the image is 1 m wide."""
    grid = VoxelGrid((0.5, -2.0, -2.0), 1.0, (2, 4, 4))
    camera_from_grid = RigidTransform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))
    camera = Camera(fx=10.0, fy=10.0, cx=9.5, cy=9.5, width=20, height=20)  # 90° wide and high
    mask = field_of_view(camera, camera_from_grid, grid)
    np.testing.assert_array_equal(mask[0], np.pad(np.ones((2, 2), bool), 1))  # centres 1 m ahead: 0.5 m aside, not 1.5
    assert mask[1].all()  # 2 m ahead: 1.5 m aside is inside
    backwards = field_of_view(camera, RigidTransform(-camera_from_grid.rotation * [[1], [-1], [1]], np.zeros(3)), grid)
    assert not backwards.any()
