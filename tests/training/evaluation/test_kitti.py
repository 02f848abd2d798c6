"""The KITTI protocol: its ground truth, its wiring, its baselines."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.velodyne import SEMANTIC_KITTI_GRID, VOXEL_SHAPE
from scene_completion_training.evaluation.kitti import (
    Baselines,
    VoxelPrediction,
    Window,
    WindowScores,
    fit_baselines,
    grid_regions,
    score_voxels,
    score_window,
)
from scene_completion_training.evaluation.tables import as_json, markdown


@pytest.fixture(scope="module")
def truth(window: Window) -> VoxelTruth:
    return window.voxel_truth()


@pytest.fixture(scope="module")
def short(window: Window) -> Window:
    """The first two frames."""
    return Window(window.name, replace(window.sequence, frames=window.sequence.frames[:2]))


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
    scores = score_window(short, {"perfect": Perfect(short, truth)}, without_knowledge())
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
    cells = score_voxels(prediction, truth, grid_regions(truth))
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


def test_undefined_figures_are_dashes_and_null() -> None:
    none, all_ = np.zeros(VOXEL_SHAPE, bool), np.ones(VOXEL_SHAPE, bool)
    nothing = VoxelTruth("", SEMANTIC_KITTI_GRID, RigidTransform.identity(), none, all_, all_, all_)
    empty = VoxelPrediction(np.zeros(VOXEL_SHAPE, np.float32), none)
    cells = score_voxels(empty, nothing, {"all": all_})
    scores = WindowScores("x", {}, {"empty": cells}, {}, {})
    assert "| x | all | empty | – / – / – |" in markdown([scores])
    assert as_json([scores])[0]["voxels"][0]["iou"] is None
