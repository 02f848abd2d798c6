from __future__ import annotations

import numpy as np

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.deployed_model import DeployedModel
from tests.training.evaluation.one_wall import CAMERA


def test_deployed_model_is_the_readable_reference(street: PosedSequence, student: StudentBundle) -> None:
    model = DeployedModel(student, threads=1)
    observation = model.observe(street, 0)
    points = np.random.default_rng(0).uniform([-8, -2, 3], [8, 2, 40], (500, 3)).astype(np.float32)
    features = model._encoder(model._resampler(CAMERA)(street.image(0, "camera_left")))
    expected = density_reference(features, points, student.head, student.point_code, student.canonical)
    np.testing.assert_allclose(observation.density(points), expected, atol=2e-3)
    assert model.cutoffs == {"σ > 0.5": 0.5}
    assert observation.depth_range == student.depth_range
