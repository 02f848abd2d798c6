from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from scene_completion_training.evaluation.deployed_model import DeployedLabels, DeployedModel
from scene_completion_training.evaluation.semantic_evaluation import score, truths
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


def test_a_deployed_student_is_scored_by_its_own_names(street: PosedSequence) -> None:
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    first, others = shipped.class_names[0], shipped.class_names[1:]
    bundle = dataclasses.replace(shipped, class_names=(first, "cluster_07", *others[1:]))
    model = DeployedLabels(bundle, threads=1)
    assert model.labels == 1 + len(bundle.class_names)
    for naming in model.namings:
        assert model.names(naming)[:3].tolist() == [0, COMMON_CLASSES.index(first), -1]
    (_, _, truth), *_ = truths([street])
    volume = model.predict(street, 0, truth)
    completer = Completer(bundle, CAMERA, grid=truth.grid, grid_from_camera=truth.grid_from_camera, threads=1)
    voxels = completer.complete(street.image(0, "camera_left")).voxels
    assert np.array_equal(volume > 0, voxels.state >= VoxelState.SURFACE) and (volume > 0).any()
    assert [volume[tuple(place)] for place in voxels.index] == (1 + voxels.label).tolist()
    (metric,) = score([model], [street])
    assert metric.compute(model.names("hungarian"))[51.2].voxels > 0
    with pytest.raises(ConfigurationError, match="cluster_01"):
        DeployedLabels(dataclasses.replace(shipped, class_names=tuple(f"cluster_0{n}" for n in range(1, 8))))
