"""Density models against ground truth voxels: by range and region, over frames and towns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.calibration import CalibrationErrors, CalibrationMetric, fit_calibration
from scene_completion_ros.evaluation.occupancy import OccupancyByRange, OccupancyScores, best_iou, score_histogram
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.voxels.occupancy import Calibration, opacity
from scene_completion_training.evaluation.density_model import VOXEL_EDGE, DensityModel, Observation, calibrated_cutoffs


@dataclass(frozen=True, eq=False)
class ExactResult:
    """Scores against ground truth voxels.

    Attributes:
        voxels: (model, rule) -> (range, region) -> scores; the score that ranks voxels is the opacity.
        calibration: Model -> "before" (the opacity itself) and, where one was fitted, "after" -> errors, in view.
    """

    frames: int
    voxels: dict[tuple[str, str], dict[tuple[float, str], OccupancyScores]]
    calibration: dict[str, dict[str, CalibrationErrors]]


class ExactEvaluation:
    """Accumulates frames.

    Attributes:
        voxels: (model, rule) -> accumulator.
        calibration: (model, "before" or "after") -> accumulator.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.voxels: dict[tuple[str, str], OccupancyByRange] = {}
        self.calibration: dict[tuple[str, str], CalibrationMetric] = {}

    def update(self, truth: VoxelTruth, observations: list[tuple[DensityModel, Observation]]) -> None:
        """Count one frame of all models."""
        self.frames += 1
        for model, observation in observations:
            density = density_in_view(truth, observation)
            alpha = opacity(density, VOXEL_EDGE)
            for rule, cutoff in model.cutoffs.items():
                metric = self.voxels.setdefault((model.name, rule), OccupancyByRange(truth.grid))
                metric.update(alpha, truth.occupied, truth.known, truth.regions_with_interiors, density > cutoff)
            counted = truth.counted
            stated = {"before": alpha[counted]}
            if model.calibration.kind != "identity":
                stated["after"] = model.calibration.apply(alpha[counted])
            for name, probability in stated.items():
                calibration = self.calibration.setdefault((model.name, name), CalibrationMetric())
                calibration.update(probability, truth.occupied[counted])

    def compute(self) -> ExactResult:
        """Scores over what was counted."""
        calibration: dict[str, dict[str, CalibrationErrors]] = {}
        for (model, name), metric in self.calibration.items():
            calibration.setdefault(model, {})[name] = metric.compute()
        return ExactResult(self.frames, {key: metric.compute() for key, metric in self.voxels.items()}, calibration)


def density_in_view(truth: VoxelTruth, observation: Observation) -> NDArray[np.float32]:
    """Density at the centres of the voxels that count in any region, float32 [X, Y, Z]; 0 elsewhere."""
    counted = truth.known & np.logical_or.reduce(list(truth.regions_with_interiors.values()))
    density = np.zeros(truth.grid.shape, dtype=np.float32)
    density[counted] = observation.density(truth.centres(counted))
    return density


class CalibratedModel:
    """A model with the calibration that was fitted on other frames.

    Args:
        calibration: From its opacity to probability.
        threshold: Probability from which a voxel counts as occupied.
    """

    def __init__(self, model: DensityModel, calibration: Calibration, threshold: float) -> None:
        self.name = model.name
        self.calibration = calibration
        self.cutoffs = calibrated_cutoffs(calibration, threshold)
        self.observe = model.observe


class CalibrationFit:
    """One model's opacities in view of frames of validation data, as a `score_histogram`: int64 [2, SCORE_BINS]."""

    def __init__(self) -> None:
        empty = np.zeros(0, dtype=np.float32)
        self.histogram = score_histogram(empty, empty > 0.0)

    def update(self, truth: VoxelTruth, observation: Observation) -> None:
        """Count one frame."""
        counted = truth.counted
        alpha = opacity(density_in_view(truth, observation)[counted], VOXEL_EDGE)
        self.histogram += score_histogram(alpha, truth.occupied[counted])

    def fitted(self, model: DensityModel) -> CalibratedModel:
        """The model with the fitted calibration, and the threshold with the largest IoU on the same frames.

        Raises:
            GridError: The opacities do not tell occupied from free voxels.
        """
        calibration = fit_calibration(self.histogram)
        threshold = calibration.apply(np.array([best_iou(self.histogram)[1]], dtype=np.float32))[0]
        return CalibratedModel(model, calibration, float(threshold))
