from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.calibration import CALIBRATION
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.occupancy import OCCUPANCY
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_ros.sequences.opening import lidar_depth, open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from scene_completion_training.evaluation.density_stretch import DensityStretch, rays_to_depth
from scene_completion_training.evaluation.deployed_model import DeployedLabels, DeployedModel
from scene_completion_training.evaluation.geometry import AFTER, BEFORE, Density, voxel_frames
from scene_completion_training.evaluation.truth_calibration import calibrate_on_truth
from tests.training.evaluation.one_wall import CAMERA, score, true_voxels


def test_deployed_model_is_the_readable_reference(street: PosedSequence, student: StudentBundle) -> None:
    model = DeployedModel(student, threads=1)
    observation = model.observe(street, 0)
    points = np.random.default_rng(0).uniform([-8, -2, 3], [8, 2, 40], (500, 3)).astype(np.float32)
    features = model._encoder(model._resampler(CAMERA)(street.image(0, "camera_left")))
    expected = density_reference(features, points, student.head, student.point_code, student.canonical)
    np.testing.assert_allclose(observation.density(points), expected, atol=2e-3)
    assert "calibrated" not in model.cutoffs
    assert observation.depth_range == student.depth_range


def test_a_deployed_student_is_scored_by_its_own_names(street: PosedSequence) -> None:
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    first, others = shipped.class_names[0], shipped.class_names[1:]
    bundle = dataclasses.replace(shipped, class_names=(first, "cluster_07", *others[1:]))
    model = DeployedLabels(bundle, threads=1)
    assert model.labels == 1 + len(bundle.class_names)
    assert model.names()[:3].tolist() == [0, COMMON_CLASSES.index(first), -1]
    truth = true_voxels(street)
    volume = model.predict(street, 0, truth)
    completer = Completer(bundle, CAMERA, grid=truth.grid, grid_from_camera=truth.grid_from_camera, threads=1)
    voxels = completer.complete(street.image(0, "camera_left")).voxels
    assert np.array_equal(volume > 0, voxels.state >= VoxelState.SURFACE) and (volume > 0).any()
    assert [volume[tuple(place)] for place in voxels.index] == (1 + voxels.label).tolist()
    (metric,) = score([model], [street])
    assert metric.compute(model.names())[51.2].voxels > 0
    with pytest.raises(ConfigurationError, match="cluster_01"):
        DeployedLabels(
            dataclasses.replace(
                shipped, class_names=tuple(f"cluster_0{n}" for n in range(1, 1 + len(shipped.class_names)))
            )
        )


def test_student_is_scored_as_it_is_deployed(window: PosedSequence, student: StudentBundle) -> None:
    answer = Density(DeployedModel(student, threads=1)).answer(next(voxel_frames([window])))
    truth, found = answer.truth.voxels, answer.voxels
    assert truth is not None and found is not None
    completer = Completer(
        student,
        window.cameras["image_2"],
        grid=truth.grid,
        grid_from_camera=truth.grid_from_camera,
        threads=1,
        extrapolate=True,
    )
    completion, counted = completer.complete(window.image(0, "image_2")), truth.counted
    np.testing.assert_allclose(found.score[counted], completion.alpha[counted], atol=1e-4)
    seen = counted & completer.in_view
    assert not set(found.stated) - {BEFORE, AFTER}
    stated = found.stated.get(AFTER, found.stated[BEFORE])
    np.testing.assert_allclose(stated[seen], completion.probability[seen], atol=1e-4)


def test_calibration_is_fitted_and_written_into_the_bundle(
    shared_data: Path, student: StudentBundle, tmp_path: Path
) -> None:
    weights = {
        "some": np.arange(3, dtype=np.float16),
        "density_layer.bias": student.head.density_bias.astype(np.float16),
    }
    student = student.save(tmp_path / "copy", student.encoder_path.read_bytes(), weights)
    whole = open_recording(shared_data / "kitti_windows" / "sequences" / "04")
    window = replace(whole, frames=whole.frames[:2])
    with pytest.raises(SequenceError, match="sequences/06 is used for training or testing.*sequences/04"):
        calibrate_on_truth(student, [open_recording(shared_data / "kitti_windows" / "sequences" / "06")])
    calibrated = calibrate_on_truth(student, [window])
    loaded = StudentBundle.load(tmp_path / "copy")
    assert loaded.calibration == calibrated.calibration
    assert loaded.calibration.kind == "piecewise_linear"
    assert loaded.threshold == calibrated.threshold != student.threshold
    assert "04" in loaded.provenance["calibration"]["fitted_on"]
    np.testing.assert_array_equal(loaded.load_weights()["some"], weights["some"])
    # Depth is fitted too: on the window's LiDAR it is better than before, and weights and head say the same.
    before, after = DeployedModel(student, threads=1), DeployedModel(loaded, threads=1)
    depths = [(index, lidar_depth(window, index)) for index in range(2)]
    errors = [
        float(
            np.mean([rays.squared_log_error(DensityStretch()) ** 0.5 for rays in rays_to_depth(model, window, depths)])
        )
        for model in (before, after)
    ]
    assert errors[1] < errors[0]
    np.testing.assert_allclose(loaded.load_weights()["density_layer.bias"], loaded.head.density_bias, rtol=2e-3)
    scores = Scores([OCCUPANCY, CALIBRATION])
    scores.run("04", [Density(after)], voxel_frames([window]))
    (stated,) = [row for row in scores.rows("calibration") if row["stated"] == AFTER]
    assert stated["expected_calibration_error"] < 0.01
    (found,) = [
        row
        for row in scores.rows("voxels")
        if (row["rule"], row["region"], row["range_m"]) == ("calibrated", "all", 51.2)
    ]
    assert found["iou"] == pytest.approx(found["best_iou"], rel=0.01)  # no threshold on the opacity does better
