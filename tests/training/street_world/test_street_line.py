from __future__ import annotations

import numpy as np
import pytest
from scene_completion_training.street_world.street_line import make_street_line


@pytest.mark.parametrize("seed", range(8))
def test_streets_turn_corners_and_never_meet_themselves(seed: int) -> None:
    line = make_street_line(np.random.default_rng(seed), -30.0, 600.0, corner_share=0.5, grade=0.03)
    assert np.abs(line.heading).max() < np.pi / 2
    assert 1 / 26.0 < np.abs(line.curvature).max() < 1 / 8.9
    assert line.point(0.0, 0.0) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert np.linalg.norm(line.point(4.0, 3.0) - line.point(4.0, -3.0)) == pytest.approx(6.0)
    assert np.ptp(line.heading) > 1.0
    assert np.abs(np.diff(line.height)).max() / 0.25 < 0.031
    s = np.arange(0.0, 590.0, 7.0)
    for d in (-4.0, 4.0):
        found_s, found_d = line.nearest(line.point(s, d))
        assert found_s == pytest.approx(s, abs=0.4)
        assert found_d == pytest.approx(np.full(len(s), d), abs=0.05)
