"""Where models of codes are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.semantic_models import (
    FeatureFieldModel,
    _tokens_at,
)
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.networks.semantic_head import DistillationHead
from scene_completion_training.viewpoint import STREET_CAMERA


def test_tokens_are_looked_up_where_points_project_to() -> None:
    tokens = torch.zeros(1, 2, 12, 40)
    tokens[0, 0] = 1.0
    tokens[0, :, 5, 7] = torch.tensor([0.0, 1.0])
    u, v = 7 * 16 + 7.5, 5 * 16 + 7.5  # the middle of that cell
    ray = np.array([(u - STREET_CAMERA.cx) / STREET_CAMERA.fx, (v - STREET_CAMERA.cy) / STREET_CAMERA.fy, 1])
    points = torch.tensor(np.stack([ray * 4.0, ray * 40.0, ray * 4.0 + [4.0, 0.0, 0.0]]), dtype=torch.float32)
    found = _tokens_at(tokens, points, STREET_CAMERA)
    assert found.tolist() == pytest.approx(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), abs=1e-3)


@pytest.fixture(scope="module")
def field() -> FeatureField:
    torch.manual_seed(0)
    return FeatureField(DensityField(STREET_CAMERA), target_size=8, channels=4, units=6, expansion=5)


def test_a_feature_field_gives_codes_of_length_one(street: PosedSequence, field: FeatureField) -> None:
    points = np.array([[0.0, 0.0, 10.0], [1.0, 0.5, 20.0]], np.float32)
    plain = FeatureFieldModel(field, "plain").observe(street, 0)
    headed = FeatureFieldModel(field, "headed", DistillationHead(8, 3), half_resolution=True).observe(street, 0)
    assert plain.codes(points).shape == (2, 8) and headed.codes(points).shape == (2, 3)
    for observed in (plain, headed):
        assert np.linalg.norm(observed.codes(points), axis=1) == pytest.approx(np.ones(2), abs=1e-5)
        assert observed.units is not None and observed.units(points).shape == (2, 6)
        assert (observed.units(points) >= 0.0).all()
