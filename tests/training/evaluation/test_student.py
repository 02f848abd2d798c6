"""The deployed student under the KITTI protocol, and the fit of its calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.calibration import expected_calibration_error
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_training.evaluation.density_stretch import DensityStretch, lidar_rays
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.kitti import (
    SEMANTIC_KITTI_GRID,
    Window,
    fit_threshold,
    open_window,
)
from scene_completion_training.evaluation.student import StudentPredictor, calibrate


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
    assert expected_calibration_error(prediction.probability[counted], truth.occupied[counted]) < 0.01
    # No threshold on the opacity itself does better.
    from_alpha = prediction.score >= np.float32(fit_threshold(prediction.score, truth))
    best, reached = (
        np.sum(mask & truth.occupied & counted) / np.sum((mask | truth.occupied) & counted)
        for mask in (from_alpha, prediction.occupied)
    )
    assert reached == pytest.approx(best, rel=0.01)
