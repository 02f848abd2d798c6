"""Evidence of depth: what sensors saw, and corners of the image."""

import numpy as np
import pytest

from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.evidence import CORNERS, SENSED, Evidence, EvidenceEstimator, sensed_depth
from scene_completion_ros.inference.motion_scale import Scale

GRID = VoxelGrid((0.0, -3.2, -2.0), 0.4, (16, 16, 8), "camera_forward")
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


def test_evidence_gives_measurements_and_a_summary_as_far_as_it_is_known() -> None:
    """Of 512 pixels a sensor saw one."""
    assert Evidence().measured((16, 32)) is None and Evidence(Scale()).measured((16, 32)) is None
    sensed = sensed_depth(np.array([[2.125, 0.125, 5.0]]), CAMERA)
    evidence = Evidence(Scale(1.25, 0.1, why=""), sensed)
    measured = evidence.measured((16, 32))
    assert measured is not None
    np.testing.assert_allclose(measured.scale, [np.log(1.25), 100.0], rtol=1e-6)
    np.testing.assert_array_equal(measured.depth, sensed)
    assert evidence.summary() == {"scale": 1.25, "scale deviation": 0.1, SENSED: 0.002}


def test_corners_have_a_depth_where_no_sensor_saw_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, corners = (np.zeros((2, 2, 2), np.float32) for _ in range(2))
    sensor[:, 0, 0], corners[:, 0] = (1.0, 100.0), [[2.0, 2.0], [50.0, 50.0]]
    image, depth = np.zeros((4, 4, 3), np.uint8), np.ones((2, 2), np.float32)
    estimator = EvidenceEstimator(CAMERA, GRID, np.ones((32, 64), np.bool_), corners=True)
    monkeypatch.setattr(estimator, "depths", lambda *_: corners)
    found = estimator.evidence(image, depth, RigidTransform.identity(), 0, sensor)
    said = found.summary()
    assert found.sensed is not None and (found.corners, said[CORNERS], said[SENSED]) == (1, 1, 0.25)
    np.testing.assert_array_equal(found.sensed, [[[1.0, 2.0], [0.0, 0.0]], [[100.0, 50.0], [0.0, 0.0]]])
    assert estimator.evidence(image, depth, "unknown", 0).sensed is None
    monkeypatch.setattr(estimator, "depths", lambda *_: None)
    assert estimator.evidence(image, depth, RigidTransform.identity(), 0).sensed is None
