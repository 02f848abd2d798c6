from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.inference.render import inverse_distance_samples, render_depth
from scene_completion_ros.voxels.occupancy import composite
from tests.inference.small_bundle import CANONICAL, random_features, random_head

FEATURES = np.zeros((96, 320, 2), dtype=np.float32)


def bundle(head: HeadWeights) -> StudentBundle:
    return StudentBundle(name="field", canonical=CANONICAL, head=head)


def wall(depth: float) -> HeadWeights:
    """Empty in front of the plane z = depth, dense behind it: z~ falls with depth."""
    weight = np.zeros((2, 39), dtype=np.float32)
    weight[0, 2] = -1.0
    threshold = PointCodeSpec().depth_code(np.array([depth]))[0]
    return HeadWeights(
        weight,
        np.array([threshold, 0.0], dtype=np.float32),
        np.array([50000.0, 0.0], dtype=np.float32),
        np.array([-20.0], dtype=np.float32),
    )


def test_samples_are_evenly_spaced_in_inverse_distance() -> None:
    t = inverse_distance_samples(64, 3.0, 80.0)
    np.testing.assert_allclose(np.diff(1.0 / t), (1 / 80 - 1 / 3) / 64)
    np.testing.assert_allclose(
        [1.0 / t[0], 1.0 / t[-1]], [1 / 3 - (1 / 3 - 1 / 80) / 128, 1 / 80 + (1 / 3 - 1 / 80) / 128]
    )


def test_a_wall_has_the_same_z_depth_in_the_corners() -> None:
    pixels = np.array([[319.5, 90.0], [0.0, 0.0], [639.0, 191.0], [5.0, 100.0]])
    depth = render_depth(EncodedImage(FEATURES), bundle(wall(12.0)), CANONICAL, pixels=pixels, samples=512)
    np.testing.assert_allclose(depth, 12.0, atol=0.2)


def test_a_full_image_of_another_camera() -> None:
    small = CANONICAL.resized(40, 12)
    depth = render_depth(EncodedImage(FEATURES), bundle(wall(7.0)), small, samples=256)
    assert depth.shape == (12, 40)
    np.testing.assert_allclose(depth, 7.0, atol=0.2)
    fisheye = Camera(10.0, 10.0, 19.5, 5.5, 40, 12, "equidistant", (0.0, 0.0, 0.0, 0.0))
    depth = render_depth(EncodedImage(FEATURES), bundle(wall(7.0)), fisheye, samples=256)
    np.testing.assert_allclose(depth[6, 18:22], 7.0, atol=0.2)
    assert np.isnan(depth[6, 0])  # looks more than 90 degrees away


def test_agrees_with_the_reference_field() -> None:
    head, features = random_head(density_bias=-4.0), random_features()
    pixels = np.random.default_rng(0).uniform([0, 0], [639, 191], (50, 2))
    rays = CANONICAL.unproject(pixels)
    length = np.linalg.norm(rays, axis=1)
    t = inverse_distance_samples(64, 3.0, 80.0)
    points = ((rays / length[:, None])[:, None] * t[:, None]).reshape(-1, 3)
    density = density_reference(features, points, head, PointCodeSpec(), CANONICAL).reshape(50, 64)
    expected = composite(density, t).distance / length
    depth = render_depth(EncodedImage(features), bundle(head), CANONICAL, pixels=pixels)
    np.testing.assert_allclose(depth, expected, rtol=1e-4)
    assert expected.std() > 0.5


@pytest.mark.parametrize("far", [20.0, 80.0])
def test_empty_space_ends_at_the_last_sample(far: float) -> None:
    head = HeadWeights(*(np.zeros(s, dtype=np.float32) for s in ((2, 39), (2,), (2,))), np.array([-30.0], np.float32))
    depth = render_depth(EncodedImage(FEATURES), bundle(head), CANONICAL, pixels=np.array([[319.5, 90.0]]), far=far)
    np.testing.assert_allclose(depth, inverse_distance_samples(64, 3.0, far)[-1], rtol=1e-4)
