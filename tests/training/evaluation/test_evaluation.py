"""The KITTI protocol: its ground truth, its wiring, the student under it, and what the command writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.evaluation.calibration import expected_calibration_error
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_training.commands import evaluate, evaluate_kitti
from scene_completion_training.evaluation.density_stretch import DensityStretch, lidar_rays
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.kitti import (
    SEMANTIC_KITTI_GRID,
    Baselines,
    VoxelPrediction,
    VoxelTruth,
    Window,
    WindowScores,
    fit_baselines,
    fit_threshold,
    open_window,
    score_voxels,
    score_window,
)
from scene_completion_training.evaluation.student import StudentPredictor, calibrate
from scene_completion_training.evaluation.tables import as_json, markdown
from tests.inference.small_bundle import make_small_bundle


@pytest.fixture(scope="module")
def window(shared_data: Path) -> Window:
    return open_window(shared_data, "06")


@pytest.fixture(scope="module")
def truth(window: Window) -> VoxelTruth:
    return window.voxel_truth()


@pytest.fixture(scope="module")
def short(window: Window) -> Window:
    """The first two frames."""
    return Window(window.name, replace(window.sequence, frames=window.sequence.frames[:2]))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"))


@dataclass
class Perfect:
    """Knows the ground truth."""

    window: Window
    truth: VoxelTruth
    frame: int = -1

    def depth(self, image: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        self.frame += 1
        depth = self.window.depth_truth(self.frame)
        assert np.array_equal(depth > 0, wanted)
        return depth

    def voxels(self, image: np.ndarray) -> VoxelPrediction:
        occupied = self.truth.occupied
        return VoxelPrediction(occupied * np.float32(0.9), occupied, occupied.astype(np.float32), occupied * 0.3)


def without_knowledge(depth: float = 20.0) -> Baselines:
    shape = SEMANTIC_KITTI_GRID.shape
    return Baselines(np.full((4, 4), depth, np.float32), np.full(shape, 0.1, np.float32), 0.5)


def test_ground_truth_has_the_size_and_the_camera_that_the_files_say(window: Window, truth: VoxelTruth) -> None:
    # The camera's place in the velodyne frame, from P2 and Tr of calib.txt by hand: inverse(Tr) applied to -K^-1 p4.
    np.testing.assert_allclose(window.velodyne_from_camera.translation, [0.3274, 0.0563, -0.0765], atol=1e-3)
    counted = truth.known & truth.in_view
    assert int(counted.sum()) == 399_953
    assert truth.occupied[counted].mean() == pytest.approx(0.073, abs=0.001)


def test_most_voxels_that_the_scan_hits_are_visible(window: Window, truth: VoxelTruth) -> None:
    hit = window.sequence.asset(0, "voxels_bin")
    assert hit is not None
    hit = hit & truth.occupied & truth.known & truth.in_view
    assert int(hit.sum()) > 5_000
    assert truth.visible[hit].mean() > 0.7
    hidden = truth.known & truth.in_view & ~truth.visible
    assert 0.2 < hidden.sum() / (truth.known & truth.in_view).sum() < 0.3
    assert not truth.visible[~truth.known].any()


def test_perfect_prediction_is_perfect_and_the_empty_field_is_empty(short: Window, truth: VoxelTruth) -> None:
    scores = score_window(short, {"perfect": lambda *_: Perfect(short, truth)}, without_knowledge())
    errors = scores.depth["perfect"]
    assert (errors.abs_rel, errors.rmse, errors.a1) == (0.0, 0.0, 1.0)
    assert scores.depth["mean depth"].abs_rel > 0.3
    assert len(scores.voxels["perfect"]) == 3 * 2 * 3
    assert all(cell.iou == cell.average_precision == 1.0 for cell in scores.voxels["perfect"].values())
    empty = scores.voxels["empty field"][51.2, "in view, all"]
    assert (empty.iou, empty.recall) == (0.0, 0.0)
    assert empty.average_precision == pytest.approx(empty.occupied_fraction) == empty.best_iou
    assert empty.voxels == 399_953
    assert scores.cutoffs["S4C: σ ≥ 0.25"][2] == (51.2, 1.0, 1.0, 1.0)
    assert scores.cutoffs["BTS: σ ≥ 0.5"][2][3] == 0.0
    assert scores.calibration["perfect"].brier == 0.0
    json.dumps(as_json([scores]), allow_nan=False)
    assert "| 06 | in view, all | perfect | 100.0 / 100.0 / 100.0 |" in markdown([scores])


def test_visible_and_hidden_voxels_make_up_all(truth: VoxelTruth) -> None:
    prediction = VoxelPrediction(np.zeros(truth.known.shape, np.float32), np.zeros(truth.known.shape, dtype=bool))
    cells = score_voxels(prediction, truth, truth.regions())
    for view in ("in view", "full grid"):
        for range_m in (12.8, 25.6, 51.2):
            parts = [cells[range_m, f"{view}, {part}"].voxels for part in ("all", "visible", "behind obstacles")]
            assert parts[0] == parts[1] + parts[2] > 0


def test_baselines_reach_what_an_independent_script_found(shared_data: Path, window: Window, truth: VoxelTruth) -> None:
    # That script used SciPy's Gaussian, scikit-learn's average precision and its own projection of the LiDAR.
    baselines = fit_baselines(shared_data)
    assert baselines.prior_threshold == pytest.approx(0.524, abs=0.002)
    scores = score_window(window, {}, baselines)
    errors = scores.depth["mean depth"]
    assert errors.abs_rel == pytest.approx(0.208, abs=0.001)
    assert errors.rmse == pytest.approx(8.581, abs=0.02)
    assert errors.a1 == pytest.approx(0.719, abs=0.002)
    expected = {12.8: (0.653, 0.795, 0.942), 25.6: (0.457, 0.503, 0.724), 51.2: (0.223, 0.243, 0.287)}
    for range_m, (iou, best, precision) in expected.items():
        cell = scores.voxels["prior grid"][range_m, "in view, all"]
        assert (cell.iou, cell.best_iou, cell.average_precision) == pytest.approx((iou, best, precision), abs=0.002)


def test_student_is_scored_as_it_is_deployed(window: Window, student: StudentBundle) -> None:
    predictor = StudentPredictor(student, window.camera, SEMANTIC_KITTI_GRID, window.velodyne_from_camera, threads=1)
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
    predictor = StudentPredictor(loaded, window.camera, SEMANTIC_KITTI_GRID, window.velodyne_from_camera, threads=1)
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


def test_command_refuses_to_fit_on_test_and_training_windows(student: StudentBundle, tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    for window in ("06", "00"):
        options = ["kitti", "--data", str(tmp_path), "--bundle", str(student.folder), "--fit-calibration", window]
        with pytest.raises(SceneCompletionError, match="training or testing"):
            evaluate.run(parser.parse_args(options))


def test_section_of_a_document_is_added_then_replaced(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("# Results\n", encoding="utf-8")
    evaluate_kitti.write_section(document, "first\n")
    document.write_text(document.read_text(encoding="utf-8") + "\nafter\n", encoding="utf-8")
    evaluate_kitti.write_section(document, "second\n")
    text = document.read_text(encoding="utf-8")
    assert text == f"# Results\n\n{evaluate_kitti.BEGIN}\nsecond\n{evaluate_kitti.END}\n\nafter\n"


def test_undefined_figures_are_dashes_and_null(truth: VoxelTruth) -> None:
    nothing = VoxelTruth(np.zeros_like(truth.occupied), truth.known, truth.in_view, truth.visible)
    empty = VoxelPrediction(np.zeros(truth.known.shape, np.float32), np.zeros(truth.known.shape, dtype=bool))
    cells = score_voxels(empty, nothing, {"all": truth.known})
    scores = WindowScores("x", {}, {"empty": cells}, {}, {})
    assert "| x | all | empty | – / – / – |" in markdown([scores])
    assert as_json([scores])[0]["voxels"][0]["iou"] is None
