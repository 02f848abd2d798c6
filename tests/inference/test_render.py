from __future__ import annotations

import numpy as np

from scene_completion_ros.inference.render import inverse_distance_samples


def test_samples_are_evenly_spaced_in_inverse_distance() -> None:
    t = inverse_distance_samples(64, 3.0, 80.0)
    np.testing.assert_allclose(np.diff(1.0 / t), (1 / 80 - 1 / 3) / 64)
    np.testing.assert_allclose(
        [1.0 / t[0], 1.0 / t[-1]], [1 / 3 - (1 / 3 - 1 / 80) / 128, 1 / 80 + (1 / 3 - 1 / 80) / 128]
    )
