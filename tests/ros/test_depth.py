"""Depth as it is published and drawn."""

from __future__ import annotations

import numpy as np

from scene_completion_ros.report.pictures import depth_picture
from scene_completion_ros.ros.depth import depth_to_show


def test_rays_that_leave_the_grid_are_too_far_and_missing_depth_stays_missing() -> None:
    depth = np.array([[5.0, 50.0, 50.0, np.nan]], np.float32)
    shown = depth_to_show(depth, np.array([[0.1, 0.5, 0.49, 1.0]], np.float32))
    np.testing.assert_array_equal(shown, np.array([[5.0, np.inf, 50.0, np.nan]], np.float32))
    assert shown.dtype == np.float32
    assert depth[0, 1] == 50.0  # not changed in place


def test_too_far_is_drawn_as_no_depth() -> None:
    depth = np.full((8, 16), 10.0, np.float32)
    without = depth.copy()
    depth[:4], without[:4] = np.inf, np.nan
    with np.errstate(all="raise"):
        pictures = [depth_picture(values, width=64) for values in (depth, without)]
    np.testing.assert_array_equal(*pictures)
