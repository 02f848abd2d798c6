"""LiDAR points as depth images."""

import numpy as np

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import sparse_depth


def test_points_fall_into_the_pixel_of_their_centre_and_the_nearest_stays() -> None:
    camera = Camera(fx=10.0, fy=10.0, cx=2.0, cy=1.0, width=5, height=3)
    points = np.array(
        [
            [0.0, 0.0, 8.0],  # pixel (2, 1), behind the next one
            [0.0, 0.0, 5.0],
            [0.0, 0.0, 9.0],
            [0.49, 0.0, 10.0],  # u = 2.49: still the pixel whose centre is 2
            [0.51, 0.0, 10.0],  # u = 2.51
            [-2.49, 0.0, 10.0],  # u = -0.49: inside the edge of the first column
            [-2.51, 0.0, 10.0],  # outside
            [0.0, 0.0, -4.0],  # behind the camera
        ],
        dtype=np.float32,
    )
    expected = np.zeros((3, 5), dtype=np.float32)
    expected[1, 2], expected[1, 3], expected[1, 0] = 5.0, 10.0, 10.0
    np.testing.assert_array_equal(sparse_depth(points, camera), expected)
    assert not sparse_depth(points[:0], camera).any()


def test_z_buffer_against_a_loop() -> None:
    random = np.random.default_rng(3)
    camera = Camera(fx=20.0, fy=22.0, cx=15.2, cy=7.7, width=32, height=16)
    points = random.uniform([-10, -6, -1], [10, 6, 20], (2000, 3)).astype(np.float32)
    expected = np.zeros((16, 32), dtype=np.float32)
    for x, y, z in points.astype(np.float64):
        if z <= 0:
            continue
        column, row = int(np.floor(20.0 * x / z + 15.2 + 0.5)), int(np.floor(22.0 * y / z + 7.7 + 0.5))
        if 0 <= column < 32 and 0 <= row < 16 and (expected[row, column] == 0 or z < expected[row, column]):
            expected[row, column] = z
    np.testing.assert_allclose(sparse_depth(points, camera), expected)
