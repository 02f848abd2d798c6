"""Controls on a street with one wall."""

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.controls import (
    EmptyControl,
    PriorControl,
    SurfaceControl,
    surface_controls,
    true_depth,
)
from tests.training.evaluation.one_wall import Wall


def test_controls_of_a_town(street: PosedSequence) -> None:
    names = [control.name for control in surface_controls(street, Wall())]
    assert names == [
        "surface (true depth)",
        "surface + 4 m (true depth)",
        "surface (depth of wall)",
        "surface + 4 m (depth of wall)",
    ]
    points = np.array([[0.0, 0.0, 10.05], [0.0, 0.0, 13.0], [0.0, 0.0, 14.5], [0.0, 0.0, 8.0]], dtype=np.float32)
    surface, thick = (
        SurfaceControl(true_depth, "true depth", metres).observe(street, 0).density(points) > 0.5
        for metres in (0.0, 4.0)
    )
    assert surface.tolist() == [True, False, False, False]
    assert thick.tolist() == [True, True, False, False]
    assert not EmptyControl().observe(street, 0).density(points).any()
    with pytest.raises(SequenceError, match="frame 1"):
        true_depth(street, 1)


def test_prior_is_cut_at_its_own_threshold(street: PosedSequence) -> None:
    grid = VoxelGrid((0.0, -1.0, -1.0), 1.0, (3, 2, 2))
    mean = np.zeros(grid.shape, dtype=np.float32)
    mean[:, 0, 0] = 0.2, 0.31, 1.0
    control = PriorControl(mean, 0.3, grid)
    points = np.array(
        [[0.5, 0.5, 0.5], [0.5, 0.5, 1.5], [0.5, 0.5, 2.5], [0.5, -0.5, 0.5], [9.0, 9.0, 9.0]], np.float32
    )
    density = control.observe(street, 0).density(points)
    assert (density > 0.5).tolist() == [False, True, True, False, False]
    # 0.5 * log(1 - 0.2) / log(1 - 0.3) = 0.3128
    assert density[0] == pytest.approx(0.3128, abs=1e-3)
    assert density[3] == density[4] == 0.0
