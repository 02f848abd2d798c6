"""Evidence of depth, as the inputs of a graph."""

import numpy as np
import pytest

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.scene_query import CORNERS, SENSED, Evidence, sensed_depth

CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=15.5, width=64, height=32)  # half of it: fx 20, centre (15.5, 7.5)


def test_points_are_depths_of_the_pixels_that_see_them() -> None:
    """At 5 m, 2.125 m to the right is pixel 15.5 + 20 · 0.425 = 24; of two points in a pixel the nearer one counts."""
    points = np.array([[2.125, 0.125, 5.0], [2.55, 0.15, 6.0], [-1.0, 0.0, -4.0], [np.nan, 0.0, 3.0], [90.0, 0.0, 3.0]])
    sensed = sensed_depth(points, CAMERA, 0.05)
    assert sensed.shape == (2, 16, 32) and np.argwhere(sensed[1] > 0.0).tolist() == [[8, 24]]
    assert sensed[0, 8, 24] == pytest.approx(np.log(5.0)) and sensed[1, 8, 24] == pytest.approx(400.0)
    assert not sensed_depth(np.zeros((0, 3)), CAMERA).any()


def test_beams_that_pass_a_body_are_left_out() -> None:
    """Two pixels from a body at 5 m one sees 9 m: from where the camera is, the body covers that."""
    body, behind, apart = [2.125, 0.125, 5.0], [10.5 * 9.0 / 20.0, 0.225, 9.0], [-2.125, 0.125, 5.0]
    sensed = sensed_depth(np.array([body, behind, apart]), CAMERA)
    assert (sensed[1] > 0.0).sum() == 2 and sensed[0].max() == pytest.approx(np.log(5.0))


def test_evidence_gives_inputs_and_a_summary_as_far_as_it_is_known() -> None:
    """Of 512 pixels a sensor saw one."""
    assert not Evidence().inputs() and not Evidence(Scale()).inputs()
    sensed = sensed_depth(np.array([[2.125, 0.125, 5.0]]), CAMERA)
    evidence = Evidence(Scale(1.25, 0.1, why=""), sensed)
    given = evidence.inputs()
    np.testing.assert_allclose(given["scale"], [[np.log(1.25), 100.0]], rtol=1e-6)
    np.testing.assert_array_equal(given["sensed"], sensed[None])
    assert evidence.summary() == {"scale": 1.25, "scale deviation": 0.1, SENSED: 0.002}


def test_corners_have_a_depth_where_no_sensor_saw_one() -> None:
    sensor, corners = (np.zeros((2, 2, 2), np.float32) for _ in range(2))
    sensor[:, 0, 0], corners[:, 0] = (1.0, 100.0), [[2.0, 2.0], [50.0, 50.0]]
    image, depth = np.zeros((4, 4, 3), np.uint8), np.ones((2, 2), np.float32)
    found = Evidence(sensed=sensor, corner_depths=lambda *_: corners).with_corners(image, depth)
    assert found.sensed is not None and found.corner_depths is None and found.summary() == {CORNERS: 1, SENSED: 0.25}
    np.testing.assert_array_equal(found.sensed, [[[1.0, 2.0], [0.0, 0.0]], [[100.0, 50.0], [0.0, 0.0]]])
    assert Evidence(corner_depths=lambda *_: None).with_corners(image, depth).sensed is None
