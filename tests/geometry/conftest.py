"""Realistic cameras of every model, and OpenCV as the independent implementation of them."""

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import Camera

PINHOLE = Camera(718.856, 718.856, 607.1928, 185.2157, 1241, 376)
PLUMB_BOB_COEFFICIENTS = (-0.3691481, 0.1968681, 0.001353473, 0.0005677587, -0.0677)
RATIONAL_COEFFICIENTS = (0.4574, -2.4406, 0.00084, -0.00029, 1.4303, 0.3366, -2.2644, 1.3511)
CAMERAS = {
    "none": PINHOLE,
    # KITTI raw 2011_09_26, camera 2 before rectification
    "plumb_bob": Camera(959.791, 956.9251, 696.0217, 224.1806, 1392, 512, "plumb_bob", PLUMB_BOB_COEFFICIENTS),
    # the size and shape of a time-of-flight camera's colour lens
    "rational_polynomial": Camera(913.1, 912.7, 956.4, 549.2, 1920, 1080, "rational_polynomial", RATIONAL_COEFFICIENTS),
    # a tracking camera's fisheye, 160° wide
    "equidistant": Camera(284.98, 286.1, 421.7, 398.3, 848, 800, "equidistant", (-0.00802, 0.04404, -0.04139, 0.00783)),
    # the size and shape of KITTI-360's side cameras, 180° wide
    "mei": Camera(1336.3, 1335.8, 716.9, 705.8, 1400, 1400, "mei", (2.2134, 0.016798, 1.6548, 0.00042224, 0.00042462)),
}


def mei_pixel(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Mei and Rives 2007 as KITTI-360's development kit writes it, with the tangential terms added: [..., 3] to 2."""
    xi, k1, k2, p1, p2 = camera.distortion
    x, y, z = np.moveaxis(points / np.linalg.norm(points, axis=-1, keepdims=True), -1, 0)
    x, y = x / (z + xi), y / (z + xi)
    r2 = x * x + y * y
    radial = 1.0 + k1 * r2 + k2 * r2 * r2
    u = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    v = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    return np.stack([camera.fx * u + camera.cx, camera.fy * v + camera.cy], axis=-1)


def project_with_opencv(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Project points [N, 3] by the independent implementation."""
    zero, points = np.zeros(3), np.asarray(points, dtype=np.float64)
    if camera.distortion_model == "mei":  # cv2.omnidir is not in the wheels
        return mei_pixel(camera, points)
    module = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
    pixels, _ = module.projectPoints(points[:, None], zero, zero, camera.matrix, np.array(camera.distortion))
    return pixels.reshape(-1, 2)


@pytest.fixture(params=list(CAMERAS))
def camera(request: pytest.FixtureRequest) -> Camera:
    """A realistic camera of every distortion model in turn."""
    return CAMERAS[request.param]
