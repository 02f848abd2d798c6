"""Lens distortion against OpenCV, its inverse, and the limits of the fitted polynomials."""

import numpy as np
import pytest

from scene_completion_ros.geometry.distortion import distort, valid_radius

FOLDING = {
    "plumb_bob": (-0.3691481, 0.1968681, 0.001353473, 0.0005677587, -0.0677),
    "rational_polynomial": (-0.5, 0.02, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0),
    "equidistant": (0.05, -0.2, 0.0, 0.0),
}


@pytest.mark.parametrize("model", FOLDING)
def test_valid_radius_is_where_the_distorted_radius_stops_growing(model: str) -> None:
    limit = valid_radius(model, FOLDING[model])
    without_tangential = tuple(
        0.0 if model != "equidistant" and i in (2, 3) else k for i, k in enumerate(FOLDING[model])
    )
    radius = np.linspace(1e-4, 0.999 * limit, 2000)
    on_axis = np.stack([radius, np.zeros_like(radius)], axis=-1)
    distorted, inside = distort(model, without_tangential, on_axis)
    assert inside.all()
    assert (np.diff(distorted[:, 0]) > 0.0).all()
    step = np.diff(distorted[-2:, 0])[0] / (radius[1] - radius[0])
    assert step < 0.05  # the curve is flat there: the limit is not needlessly small


@pytest.mark.parametrize("model", FOLDING)
def test_points_beyond_the_valid_radius_are_flagged_and_stay_on_the_rim(model: str) -> None:
    limit = valid_radius(model, FOLDING[model])
    direction = np.array([0.6, 0.8])
    rim, _ = distort(model, FOLDING[model], direction * limit * 0.999999)
    beyond, inside = distort(model, FOLDING[model], direction * limit * np.array([[1.01], [3.0], [1e4]]))
    assert not inside.any()
    if model != "equidistant":
        np.testing.assert_allclose(beyond, np.broadcast_to(rim, beyond.shape), atol=1e-4)
    assert np.isfinite(beyond).all()
