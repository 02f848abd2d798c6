"""Feature consistency by hand, and warps through planes and past obstacles that are known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.evaluation.feature_consistency import (
    FeatureConsistency,
    FeatureConsistencyMetric,
    warp_from_depth,
)
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import view_rotation
from scene_completion_ros.geometry.transforms import RigidTransform

CAMERA = Camera(fx=20.0, fy=20.0, cx=19.5, cy=9.5, width=40, height=20)


def feature_consistency(*pair: np.ndarray) -> FeatureConsistency:
    metric = FeatureConsistencyMetric()
    metric.update(*pair)
    return metric.compute()


def pixel_grid(height: int, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float)), axis=-1)


def test_three_pixels_by_hand() -> None:
    """Equal up to length, at right angles, opposite; a fourth is not valid."""
    one = np.array([[[3.0, 1.0, 0.0, 9.0]], [[4.0, 0.0, 2.0, 9.0]]])
    other = np.array([[[0.3, 0.0, 0.0, 1.0]], [[0.4, 5.0, -7.0, 0.0]]])
    result = feature_consistency(one, other, pixel_grid(1, 4), np.array([[True, True, True, False]]))
    assert result.pixels == 3
    assert result.l1 == pytest.approx((0 + 2 + 2) / 3)
    assert result.l2 == pytest.approx((0 + math.sqrt(2) + 2) / 3)
    assert result.cosine == pytest.approx((1 + 0 - 1) / 3)


def test_sampling_is_bilinear_and_clamped() -> None:
    other = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # along x, along y
    warp = np.array([[[0.5, 0.0], [-3.0, 7.0]]])
    one = np.ones((2, 1, 2))
    result = feature_consistency(one, other, warp, np.ones((1, 2), bool))
    assert result.cosine == pytest.approx((1 + math.sqrt(0.5)) / 2)  # half way is (0.5, 0.5); beyond the border (1, 0)


def test_features_that_are_zero_agree_with_nothing() -> None:
    result = feature_consistency(np.zeros((3, 1, 1)), np.ones((3, 1, 1)), np.zeros((1, 1, 2)), np.ones((1, 1), bool))
    assert (result.cosine, result.l2) == (0.0, pytest.approx(1.0))


def test_l2_follows_from_the_cosine_and_many_pixels_are_cut_into_pieces() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 8, 90, 100))
    metric, pieces = FeatureConsistencyMetric(), FeatureConsistencyMetric()
    warp, valid = random.uniform(0, 89, (90, 100, 2)), random.random((90, 100)) < 0.7
    metric.update(one, other, warp, valid)
    for rows in (slice(0, 31), slice(31, 90)):
        part = FeatureConsistencyMetric()
        part.update(one[:, rows], other, warp[rows], valid[rows])
        pieces.merge(part)
    np.testing.assert_allclose(pieces.sums, metric.sums)
    assert metric.compute() == feature_consistency(one, other, warp, valid)
    single = feature_consistency(one, other, warp, np.arange(9000).reshape(90, 100) == 17)
    assert single.l2 == pytest.approx(math.sqrt(2 - 2 * single.cosine))
    assert math.isnan(FeatureConsistencyMetric().compute().l1)


def test_features_of_other_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match="shapes"):
        feature_consistency(np.ones((3, 2, 2)), np.ones((4, 2, 2)), np.ones((2, 2, 2)), np.ones((2, 2), bool))


def test_a_wall_shifts_by_focal_length_times_baseline_over_depth() -> None:
    """View 2 stands 1 m to the right: at 5 m, everything moves 4 pixels to the left; the first 4 columns leave."""
    depth = np.full((20, 40), 5.0)
    warp, valid = warp_from_depth(depth, depth, CAMERA, CAMERA, RigidTransform(np.eye(3), np.array([-1.0, 0, 0])))
    np.testing.assert_allclose(warp, pixel_grid(20, 40) - [4.0, 0.0])
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(40) >= 4, (20, 40)))


def ground_depth(height_above_ground: float) -> np.ndarray:
    """z-depth of the ground below a level camera; 0 at and above the horizon."""
    slope = (CAMERA.pixel_centres()[..., 1] - CAMERA.cy) / CAMERA.fy
    return np.where(slope > 0.01, height_above_ground / np.where(slope > 0.01, slope, 1.0), 0.0)


def test_ground_is_recognised_from_a_camera_that_moved_and_turned() -> None:
    """The interpolated depth of the ground is right between pixels, however steep it is: hardly any tolerance."""
    camera_2_from_camera_1 = RigidTransform(view_rotation(yaw=0.1).T, np.array([0.3, 0.0, -1.2]))
    depth = ground_depth(1.6)  # the same from everywhere above the ground
    warp, valid = warp_from_depth(depth, depth, CAMERA, CAMERA, camera_2_from_camera_1, tolerance=1e-6)
    row, column = 14, 20
    point = camera_2_from_camera_1.apply(CAMERA.unproject(np.array([20.0, 14.0])) * depth[row, column])
    np.testing.assert_allclose(warp[row, column], CAMERA.project(point)[0])
    assert valid[row, column] and not valid[:10].any()
    inside = CAMERA.contains(warp) & (warp[..., 1] > 10.0) & (warp[..., 1] <= 19.0) & (depth > 0.0)
    inside &= (warp[..., 0] >= 0.0) & (warp[..., 0] <= 39.0)
    assert inside.sum() > 100
    np.testing.assert_array_equal(valid & inside, inside)


def test_what_stands_in_front_hides_the_wall() -> None:
    """A wall at 10 m and a board at 5 m; view 2 stands 1 m to the right."""
    depth_1, depth_2 = np.full((20, 40), 10.0), np.full((20, 40), 10.0)
    depth_1[5:15, 20:26] = 5.0
    depth_2[5:15, 16:22] = 5.0  # 4 pixels to the left; the wall moves 2
    warp, valid = warp_from_depth(depth_1, depth_2, CAMERA, CAMERA, RigidTransform(np.eye(3), np.array([-1.0, 0, 0])))
    np.testing.assert_allclose(warp[10, 22], [18.0, 10.0])
    row = np.ones(40, dtype=bool)
    row[:2] = False  # leaves the image
    row[[18, 19]] = False  # wall that falls on the columns 16 and 17 of the board; 20..23 are the board itself
    np.testing.assert_array_equal(valid[10], row)
    assert valid[3, 2:].all()


def test_tolerance_is_a_part_of_the_depth() -> None:
    depth = np.full((20, 40), 10.0)
    for factor, tolerance, seen in (
        (1.049, 0.05, True),
        (1.051, 0.05, False),
        (0.949, 0.05, False),
        (0.951, 0.05, True),
    ):
        valid = warp_from_depth(depth, depth * factor, CAMERA, CAMERA, RigidTransform.identity(), tolerance)[1]
        assert valid.all() if seen else not valid.any()


def test_unknown_depths_are_not_valid() -> None:
    depth_1, depth_2 = np.full((20, 40), 10.0), np.full((20, 40), 10.0)
    depth_1[0, 0], depth_1[0, 1], depth_2[0, 2], depth_2[0, 3] = 0.0, np.nan, 0.0, np.inf
    warp, valid = warp_from_depth(depth_1, depth_2, CAMERA, CAMERA, RigidTransform.identity())
    assert not valid[0, :4].any() and valid[1:].all() and np.isfinite(warp).all()
    nothing = warp_from_depth(
        depth_1 * 0, depth_2 / 10, CAMERA, CAMERA, RigidTransform(np.eye(3), np.array([-1.0, -1, 0]))
    )
    assert not nothing[1].any()
    behind = RigidTransform(np.eye(3), np.array([0.0, 0.0, -20.0]))
    assert not warp_from_depth(depth_1, depth_2, CAMERA, CAMERA, behind)[1].any()


def test_a_camera_of_another_size_is_refused_and_a_resized_one_works() -> None:
    half = CAMERA.resized(20, 10)
    depth = np.full((20, 40), 5.0)
    move = RigidTransform(np.eye(3), np.array([-1.0, 0, 0]))
    with pytest.raises(CameraError, match=r"depth \(20, 40\), camera \(10, 20\)"):
        warp_from_depth(depth, depth, CAMERA, half, move)
    warp, _ = warp_from_depth(depth, np.full((10, 20), 5.0), CAMERA, half, move)
    np.testing.assert_allclose(warp[10, 20], [(16 + 0.5) / 2 - 0.5, (10 + 0.5) / 2 - 0.5])
