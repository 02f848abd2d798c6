"""Exact truth of a street with one wall, and the calibration that is fitted on it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scene_completion_ros.evaluation.truth import IN_VIEW, SEEN, exact_truth
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.evaluation.controls import EmptyControl, grid_density, surface_controls
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, Observation
from scene_completion_training.evaluation.exact_evaluation import CalibrationFit, ExactEvaluation
from tests.training.evaluation.one_wall import CAMERA, GRID, Wall


def test_the_truth_is_perfect_and_thickness_pays_inside_only(street: PosedSequence) -> None:
    truth = voxel_truth(street, 0)
    assert truth is not None
    assert voxel_truth(street, 1) is None
    evaluation = ExactEvaluation()
    models = [Wall(), EmptyControl(), *surface_controls(street)]
    evaluation.update(truth, [(model, model.observe(street, 0)) for model in models])
    cells = {model: found for (model, _), found in evaluation.compute().voxels.items()}
    assert all(cells["wall"][12.8, region].iou == 1.0 for region in ("visible", "all", "interiors", "all + interiors"))
    assert all(cells["nothing"][51.2, region].recall == 0.0 for region in ("visible", "interiors", "all"))
    assert math.isnan(cells["wall"][51.2, "occluded"].iou)  # nothing is hidden behind the wall: no voxel to be right of
    assert cells["wall"][51.2, "all"].voxels == int((truth.known & truth.regions["all"]).sum())
    assert cells["surface (true depth)"][51.2, "interiors"].recall == 0.0
    # The insides are two metres deep, a thickness of 4 m fills them and two metres of free space behind.
    assert cells["surface + 4 m (true depth)"][51.2, "interiors"].recall > 0.5
    assert cells["surface + 4 m (true depth)"][51.2, "occluded"].precision == 0.0


def test_calibration_is_fitted_to_what_densities_mean() -> None:
    """Voxels of density 0.1 n per metre are occupied with probability n², n even in 0..1: far from their opacity."""
    shape = (64, 64, 8)
    n, chance = np.random.default_rng(0).random((2, *shape))
    flags = np.full(shape, IN_VIEW | SEEN, np.uint8)
    truth = exact_truth((chance < n**2).astype(np.uint8), flags, GRID)
    density = grid_density((0.1 * n).astype(np.float32), GRID, truth.grid_from_camera)
    observation, fit = Observation(CAMERA, density), CalibrationFit()
    fit.update(truth, observation)
    model = fit.fitted(Wall())
    half = np.array([0.5], dtype=np.float32)
    assert model.calibration.apply(opacity(0.1 * half, VOXEL_EDGE))[0] == pytest.approx(0.25, abs=0.03)
    evaluation = ExactEvaluation()
    evaluation.update(truth, [(model, observation)])
    result = evaluation.compute()
    calibrated = result.voxels["wall", "calibrated"][51.2, "all"]
    assert calibrated.iou == pytest.approx(calibrated.best_iou, abs=0.01)
    assert result.voxels["wall", "σ > 0.5"][51.2, "all"].iou == 0.0
    errors = result.calibration["wall"]
    assert errors["before"].expected_calibration_error == pytest.approx(1 / 3 - 0.01, abs=0.01)  # mean n² and mean α
    assert errors["after"].expected_calibration_error < 0.02
    uncalibrated = ExactEvaluation()
    uncalibrated.update(truth, [(Wall(), observation)])
    assert set(uncalibrated.compute().calibration["wall"]) == {"before"}
