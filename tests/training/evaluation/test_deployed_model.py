from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.calibration import CalibrationMetric
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from scene_completion_training.evaluation.density_stretch import DensityStretch, lidar_rays
from scene_completion_training.evaluation.deployed_model import (
    DeployedLabels,
    DeployedModel,
    StudentPredictor,
    calibrate,
)
from scene_completion_training.evaluation.kitti import SEMANTIC_KITTI_GRID, Window, fit_threshold, open_window
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
        DeployedLabels(
            dataclasses.replace(
                shipped, class_names=tuple(f"cluster_0{n}" for n in range(1, 1 + len(shipped.class_names)))
            )
        )


def test_student_is_scored_as_it_is_deployed(window: Window, student: StudentBundle) -> None:
    predictor = StudentPredictor(student, window, threads=1)
    image = window.image(0)
    prediction = predictor.voxels(image)
    completer = Completer(
        student,
        window.camera,
        grid=SEMANTIC_KITTI_GRID,
        grid_from_camera=window.velodyne_from_camera,
        threads=1,
        extrapolate=True,
    )
    completion = completer.complete(image)
    np.testing.assert_allclose(prediction.score, completion.alpha, atol=1e-6)
    seen = completer.in_view
    assert prediction.probability is not None
    np.testing.assert_allclose(prediction.probability[seen], completion.probability[seen], atol=1e-6)
    occupied = np.zeros(seen.shape, dtype=bool)
    occupied[tuple(completion.voxels.index.T)] = True
    assert np.count_nonzero((prediction.occupied & seen) != occupied) <= 1e-5 * seen.sum()
    wanted = np.zeros(image.shape[:2], dtype=bool)
    wanted[200:203, 600:604] = True
    depth = predictor.depth(image, wanted)
    assert np.all((depth[wanted] >= student.depth_range[0] * 0.8) & (depth[wanted] <= student.depth_range[1]))
    assert not depth[~wanted].any()


def test_calibration_is_fitted_and_written_into_the_bundle(
    shared_data: Path, student: StudentBundle, tmp_path: Path
) -> None:
    weights = {
        "some": np.arange(3, dtype=np.float16),
        "density_layer.bias": student.head.density_bias.astype(np.float16),
    }
    student = student.save(tmp_path / "copy", student.encoder_path.read_bytes(), weights)
    window = open_window(shared_data, "04")
    window = replace(window, sequence=replace(window.sequence, frames=window.sequence.frames[:3]))
    calibrated = calibrate(student, window, threads=1)
    loaded = StudentBundle.load(tmp_path / "copy")
    assert loaded.calibration == calibrated.calibration
    assert loaded.calibration.kind == "piecewise_linear"
    assert loaded.threshold == calibrated.threshold != student.threshold
    assert "04" in loaded.provenance["calibration"]["fitted_on"]
    np.testing.assert_array_equal(loaded.load_weights()["some"], weights["some"])
    # Depth is fitted too: on the window's LiDAR it is better than before, and weights and head say the same.
    errors = [
        float(np.mean([rays.squared_log_error(DensityStretch()) ** 0.5 for rays in lidar_rays(model, window)]))
        for model in (DeployedModel(student, threads=1), DeployedModel(loaded, threads=1))
    ]
    assert errors[1] < errors[0]
    np.testing.assert_allclose(loaded.load_weights()["density_layer.bias"], loaded.head.density_bias, rtol=2e-3)
    truth = window.voxel_truth()
    counted = truth.known & truth.in_view
    predictor = StudentPredictor(loaded, window, threads=1)
    prediction = predictor.voxels(window.image(0))
    assert prediction.probability is not None
    calibration = CalibrationMetric()
    calibration.update(prediction.probability[counted], truth.occupied[counted])
    assert calibration.compute().expected_calibration_error < 0.01
    # No threshold on the opacity itself does better.
    from_alpha = prediction.score >= np.float32(fit_threshold(prediction.score, truth))
    best, reached = (
        np.sum(mask & truth.occupied & counted) / np.sum((mask | truth.occupied) & counted)
        for mask in (from_alpha, prediction.occupied)
    )
    assert reached == pytest.approx(best, rel=0.01)
