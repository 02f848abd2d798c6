import math

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.data.stereo import has_lens, rectified_sequence
from scene_completion_training.viewpoint import CameraSettings
from tests.training.data.test_recorded_camera import FISHEYE, drive


def test_a_lens_is_looked_through_by_a_pinhole() -> None:
    """A point is where the pinhole has it; depth and masks are the lens's at the same place."""
    rows = np.arange(240.0)[:, None] + np.zeros(320)
    sequence = drive(
        FISHEYE,
        images={"front": lambda: np.repeat(rows[..., None].astype(np.uint8), 3, axis=-1)},
        assets={"depth": lambda: rows, "ego_front": lambda: rows > 200.0},
    )
    canonical = CameraSettings(width=384, height=192, field_of_view=116.0).camera()
    seen = rectified_sequence(sequence, ["front"], canonical)
    camera = seen.cameras["front"]
    assert not has_lens(camera) and has_lens(FISHEYE)
    assert math.degrees(camera.horizontal_fov) > 110.0 and camera.fx == pytest.approx(FISHEYE.fx)
    points = np.array([[1.0, 0.3, 1.5], [-0.8, 0.2, 1.0]])
    lens, pinhole = (np.asarray(each.project(points)[0]) for each in (FISHEYE, camera))
    image, depth, ego = seen.image(0, "front"), seen.asset(0, "depth"), seen.asset(0, "ego_front")
    covered = seen.asset(0, "validity_front")
    assert depth is not None and ego is not None and covered is not None
    for (u, v), (_, row) in zip(np.round(pinhole).astype(int), lens, strict=True):
        assert image[v, u, 0] == pytest.approx(row, abs=1.5) and depth[v, u] == pytest.approx(row, abs=1.5)
        assert covered[v, u] and ego[v, u] == (depth[v, u] > 200.0)
    assert not covered.all() and depth[~covered].max() == 0.0  # wider than the lens
    assert rectified_sequence(seen, ["front"], canonical) is seen


def test_a_view_that_no_pinhole_has_is_refused() -> None:
    canonical = CameraSettings(width=384, height=192, field_of_view=160.0).camera()
    with pytest.raises(ConfigurationError, match="looks 80° aside. Take a field of view below 150°"):
        rectified_sequence(drive(FISHEYE), ["front"], canonical)
