"""Depth and opacity of densities that are known by hand."""

import math

import numpy as np
import pytest

from scene_completion_ros.voxels.occupancy import Calibration, density_of_opacity
from scene_completion_training.evaluation.density_model import IDENTITY, VOXEL_EDGE, Observation, calibrated_cutoffs
from tests.training.evaluation.one_wall import CAMERA


def test_depth_is_along_the_optical_axis() -> None:
    everywhere = Observation(CAMERA, lambda points: np.where(points[:, 2] >= 10.0, 50.0, 0.0).astype(np.float32))
    pixels = np.array([[31.5, 11.5], [0.0, 0.0], [63.0, 23.0], [-40.0, 11.5]])
    depth = everywhere.depth(pixels, samples=2000)
    np.testing.assert_allclose(depth, 10.0, atol=0.05)  # a plane has one z-depth, whatever the distance along the ray
    # 64 samples: the first one behind z = 10 m, for i in 0..63: t = 1 / ((1 - s) / 3 + s / 80), s = (i + 1/2) / 64.
    s = (np.arange(64) + 0.5) / 64
    samples = 1 / ((1 - s) / 3 + s / 80)
    assert everywhere.depth(pixels[:1])[0] == pytest.approx(samples[samples >= 10.0][0], rel=1e-5)
    empty = Observation(CAMERA, lambda points: np.zeros(len(points), np.float32)).depth(np.array([[31.5, 11.5]]))
    assert empty[0] == pytest.approx(1 / (0.5 / 64 / 3 + (63.5 / 64) / 80), rel=1e-5)  # the last of 64 samples, 66.6 m


def test_calibrated_rule_is_the_threshold_on_the_probability() -> None:
    # Probability 0.4 is reached half way to the knot (0.5, 0.8): at opacity 0.25, density -ln 0.75 / 0.2 = 1.4384.
    calibration = Calibration("piecewise_linear", (0.0, 0.5, 1.0), (0.0, 0.8, 1.0))
    cutoffs = calibrated_cutoffs(calibration, 0.4)
    assert cutoffs["calibrated"] == pytest.approx(1.4384, abs=1e-4)
    assert cutoffs["σ > 0.5"] == 0.5
    assert density_of_opacity(np.array(0.25), VOXEL_EDGE) > cutoffs["calibrated"]  # "at least", as deployed
    plain = calibrated_cutoffs(IDENTITY, 0.4)
    assert list(plain) == ["σ > 0.5", "SceneDINO: σ ≥ 0.2", "S4C: σ ≥ 0.25"]
    density = np.float32([0.1999, 0.2, 0.25, 0.5])
    assert [(density > cutoff).tolist() for cutoff in plain.values()] == [
        [False, False, False, False],
        [False, True, True, True],
        [False, False, True, True],
    ]
    assert calibrated_cutoffs(Calibration("piecewise_linear", (0.0, 1.0), (0.0, 0.3)), 0.4)["calibrated"] == math.inf
