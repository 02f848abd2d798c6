from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.calibration import CALIBRATION
from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.occupancy import OCCUPANCY
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.opening import lidar_depth, open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.density_stretch import DensityStretch, rays_to_depth
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.geometry import AFTER, BEFORE, Density, voxel_frames
from scene_completion_training.evaluation.truth_calibration import calibrate_on_truth


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


def test_calibration_is_fitted_and_kept_in_a_bundle(shared_data: Path, student: StudentBundle, tmp_path: Path) -> None:
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
