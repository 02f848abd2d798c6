from __future__ import annotations

from dataclasses import replace

import numpy as np

from scene_completion_ros.evaluation.lidar_occupancy import ORIGINAL
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.occupancy_plots import (
    probability_map,
    profile_picture,
    profile_points,
    truth_map,
)
from tests.training.evaluation.one_wall import Wall


def test_view_from_above_is_upright_and_not_mirrored(street: PosedSequence) -> None:
    points = profile_points(replace(ORIGINAL, camera_pitch=0.0))
    assert points.shape == (5, 270, 180, 3)
    np.testing.assert_allclose(points[0, 0, 0], [-8.95, 0.0, 29.95])  # first row far, first column left
    np.testing.assert_allclose(points[-1, -1, -1], [8.95, 1.0, 3.05])
    truth = voxel_truth(street, 0)
    assert truth is not None
    for picture in (truth_map(truth, points), probability_map(Wall(), Wall().observe(street, 0), points)):
        dark = picture.astype(int).sum(axis=-1) < 300
        row, column = (np.flatnonzero(dark.any(axis=axis)) for axis in (1, 0))
        # The wall: z from 10 to 12 m, rows from (30 - 12) to (30 - 10) * 10; x from -1 to 3 m, columns from 80 to 120.
        assert abs(row.min() - 180) <= 8 and abs(row.max() - 199) <= 8
        assert abs(column.min() - 80) <= 8 and abs(column.max() - 119) <= 8
    picture = profile_picture(street, 0, truth, [(Wall(), Wall().observe(street, 0))], ORIGINAL)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
