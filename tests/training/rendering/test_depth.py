from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from scene_completion_training.rendering.depth import render_features

from scene_completion_ros.inference.point_code import PointCodeSpec
from tests.training.evaluation.along_a_wall import CAMERA, DEPTH


def test_rendered_features_are_those_of_the_surface() -> None:
    """Of a field whose features are places, every pixel gets the place where its ray meets the wall."""
    spec = PointCodeSpec()
    seen = SimpleNamespace(
        field=SimpleNamespace(spec=spec, expand=lambda features: 2.0 * features),
        features_map=torch.zeros(1),
        density_logit=lambda points: torch.where(points[..., 2] >= DEPTH, 100.0, -100.0),
        features=lambda points: points,
    )
    place = render_features(seen, CAMERA, samples=512).numpy() / 2.0  # type: ignore[arg-type]
    assert place.shape == (3, 20, 40)
    rays = np.moveaxis(np.asarray(CAMERA.unproject(CAMERA.pixel_centres())), -1, 0)
    assert (place[2] >= DEPTH - 1e-3).all() and (place[2] < DEPTH + 0.2).all()
    np.testing.assert_allclose(place, rays / rays[2] * place[2], rtol=1e-4, atol=1e-5)
