import numpy as np

from scene_completion_ros.inference.head import PointCodeSpec
from tests.inference.small_bundle import CANONICAL

CODE = PointCodeSpec()


def points(count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform([-30, -5, -20], [30, 5, 60], (count, 3))


def test_inverse_depth_undoes_the_code_also_beyond_infinity() -> None:
    inverse = np.array([-0.01, 0.0, 1 / 80, 1 / 3, 1.0])
    np.testing.assert_allclose(CODE.inverse_depth(CODE.depth_code_of_inverse(inverse)), inverse, atol=1e-15)
    np.testing.assert_allclose(CODE.inverse_depth(CODE.depth_code(np.array([10.0]))), [0.1])


def test_image_coordinates_are_those_of_the_camera() -> None:
    ahead = points() * [0.1, 0.1, 1.0]
    ahead = ahead[ahead[:, 2] > 1.0]
    pixels, _ = CANONICAL.project(ahead)
    np.testing.assert_allclose(CODE.image_coordinates(ahead, CANONICAL), CANONICAL.normalise(pixels), atol=1e-12)
