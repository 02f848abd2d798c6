"""Evidence of depth by motion: a scale, and corners of the image."""

import numpy as np
import pytest

from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.evidence import CORNERS, Evidence, EvidenceEstimator
from scene_completion_ros.inference.motion_scale import Scale

GRID = VoxelGrid((0.0, -3.2, -2.0), 0.4, (16, 16, 8), "camera_forward")
CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=15.5, width=64, height=32)


def test_evidence_gives_measurements_and_a_summary_as_far_as_it_is_known() -> None:
    """Of 512 pixels one has a depth."""
    assert Evidence().measured((16, 32)) is None and Evidence(Scale()).measured((16, 32)) is None
    sensed = np.zeros((2, 16, 32), np.float32)
    sensed[:, 8, 24] = np.log(5.0), 400.0
    evidence = Evidence(Scale(1.25, 0.1, why=""), sensed)
    measured = evidence.measured((16, 32))
    assert measured is not None
    np.testing.assert_allclose(measured.scale, [np.log(1.25), 100.0], rtol=1e-6)
    np.testing.assert_array_equal(measured.depth, sensed)
    assert evidence.summary() == {"scale": 1.25, "scale deviation": 0.1, CORNERS: 1}


def test_corners_have_a_depth_where_they_are_wanted_and_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = np.zeros((2, 2, 2), np.float32)
    corners[:, 0] = [[2.0, 2.0], [50.0, 50.0]]
    image, depth = np.zeros((4, 4, 3), np.uint8), np.ones((2, 2), np.float32)
    estimator = EvidenceEstimator(CAMERA, GRID, np.ones((32, 64), np.bool_), corners=True)
    monkeypatch.setattr(estimator, "depths", lambda *_: corners)
    found = estimator.evidence(image, depth, RigidTransform.identity(), 0)
    assert found.summary()[CORNERS] == 2
    np.testing.assert_array_equal(found.sensed, corners)
    assert estimator.evidence(image, depth, "unknown", 0).sensed is None
    monkeypatch.setattr(estimator, "depths", lambda *_: None)
    assert estimator.evidence(image, depth, RigidTransform.identity(), 0).sensed is None
