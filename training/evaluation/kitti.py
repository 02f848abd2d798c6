"""Depth and voxels against the LiDAR and the semantic voxels of KITTI odometry windows.

Depth: LiDAR of the frame projected into image_2, Garg crop, 80 m, mean over the frames of a window.
Voxels: semantic voxels of frame 0 on their own grid, in the velodyne frame; voxels of unknown content and officially
invalid ones do not count. The regions ("visible", "behind obstacles") follow from the ground truth and the camera's
position alone, so all methods are scored on the same voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.baselines import MeanDepth, PriorGrid
from scene_completion_ros.evaluation.calibration import CalibrationErrors, CalibrationMetric
from scene_completion_ros.evaluation.depth import DepthErrors, DepthMetric, resize_depth
from scene_completion_ros.evaluation.occupancy import (
    OccupancyByRange,
    OccupancyScores,
    best_iou,
    confusion,
    score_histogram,
)
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.opening import lidar_depth, voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.velodyne import SEMANTIC_KITTI_GRID, VOXEL_SHAPE

TRAINING_WINDOWS = ("00", "01", "02", "03", "05", "07")
CALIBRATION_WINDOW = "04"
TEST_WINDOWS = ("06", "09")
IMAGE = "image_2"
PRIOR_SIGMA = (16.0, 16.0, 0.5)  # voxels; the largest mean average precision in view on the calibration window
DENSITY_CUTOFFS = {"SceneDINO": 0.2, "S4C": 0.25, "BTS": 0.5}  # per metre, of the literature


def grid_regions(truth: VoxelTruth) -> dict[str, NDArray[np.bool_]]:
    """Name -> mask of the regions that are scored; what the camera does not see lies behind obstacles."""
    assert truth.visible is not None  # of measured voxels it is known
    everywhere = np.ones_like(truth.known)
    views = {"in view": truth.in_view, "full grid": everywhere}
    parts = {"all": everywhere, "visible": truth.visible, "behind obstacles": ~truth.visible}
    return {f"{view}, {part}": a & b for view, a in views.items() for part, b in parts.items()}


@dataclass(frozen=True, eq=False)
class VoxelPrediction:
    """What a method says about `SEMANTIC_KITTI_GRID`.

    Attributes:
        score: Ranks the voxels, float32 [X, Y, Z], at least 0.
        occupied: What the method calls occupied, bool [X, Y, Z].
        probability: Stated probability, float32 [X, Y, Z], where the method states one.
        density: Density per metre, float32 [X, Y, Z], of density fields.
    """

    score: NDArray[np.float32]
    occupied: NDArray[np.bool_]
    probability: NDArray[np.float32] | None = None
    density: NDArray[np.float32] | None = None


class Predictor(Protocol):
    """A method that completes images of one camera, prepared for that camera and `SEMANTIC_KITTI_GRID`."""

    def depth(self, image: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """z-depth [H, W] in metres of the wanted pixels of an RGB image [H, W, 3]; 0 elsewhere."""

    def voxels(self, image: NDArray[np.uint8]) -> VoxelPrediction:
        """Voxels of the grid."""


@dataclass(frozen=True, eq=False)
class Window:
    """A few consecutive frames of one KITTI odometry sequence."""

    name: str
    sequence: PosedSequence

    @property
    def camera(self) -> Camera:
        """The camera of image_2."""
        return self.sequence.cameras[IMAGE]

    @property
    def velodyne_from_camera(self) -> RigidTransform:
        """Pose of image_2 in the frame of the voxels."""
        return self.sequence.rig_from_sensor["velodyne"].inverse() @ self.sequence.rig_from_camera[IMAGE]

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB image [H, W, 3] of a frame."""
        return self.sequence.image(index, IMAGE)

    def depth_truth(self, index: int) -> NDArray[np.float32]:
        """LiDAR of a frame as z-depth [H, W] of image_2, metres, 0 where no point fell."""
        depth = lidar_depth(self.sequence, index, IMAGE)
        if depth is None:
            raise SequenceError("frame has no LiDAR scan", where=f"{self.name}, frame {index}", cure="Restore the scan")
        return depth

    def voxel_truth(self) -> VoxelTruth:
        """Ground truth of frame 0."""
        truth = voxel_truth(self.sequence, 0, IMAGE)
        if truth is None:
            raise SequenceError("has no semantic voxels", where=self.name, cure="Restore ssc_derived/000000.npz")
        return truth


@dataclass(frozen=True, eq=False)
class WindowScores:
    """Scores of all methods on one window.

    Attributes:
        depth: Method -> errors.
        voxels: Method -> (range, region) -> scores.
        cutoffs: Name in the literature -> (range, IoU, precision, recall) in view at its density cut-off.
        calibration: Method -> errors of its stated probabilities, in view.
    """

    window: str
    depth: dict[str, DepthErrors]
    voxels: dict[str, dict[tuple[float, str], OccupancyScores]]
    cutoffs: dict[str, list[tuple[float, float, float, float]]]
    calibration: dict[str, CalibrationErrors]


@dataclass(frozen=True, eq=False)
class Baselines:
    """What knows no image.

    Attributes:
        depth: Mean LiDAR depth on the normalised image grid, float32 [h, w].
        prior: Smoothed mean occupancy, float32 [X, Y, Z].
        prior_threshold: IoU-optimal on the calibration window, in view.
    """

    depth: NDArray[np.float32]
    prior: NDArray[np.float32]
    prior_threshold: float


def open_window(data: Path, name: str) -> Window:
    """Open the window of an odometry sequence, e.g. "06", under the folder of the shared recordings."""
    return Window(name, kitti_odometry(data / "kitti_windows" / "sequences" / name, cameras=[IMAGE], name=name))


def fit_baselines(data: Path) -> Baselines:
    """Mean depth and prior grid of the training windows; the prior's threshold is fitted on the calibration window."""
    mean, prior = MeanDepth(), PriorGrid(SEMANTIC_KITTI_GRID.shape)
    for window in (open_window(data, name) for name in TRAINING_WINDOWS):
        truth = window.voxel_truth()
        prior.update(truth.occupied, truth.known)
        for index in range(len(window.sequence)):
            mean.update(window.depth_truth(index))
    grid = prior.compute(PRIOR_SIGMA)
    return Baselines(mean.compute(), grid, fit_threshold(grid, open_window(data, CALIBRATION_WINDOW).voxel_truth()))


def fit_threshold(score: NDArray[np.float32], truth: VoxelTruth) -> float:
    """Threshold with the largest IoU over all known voxels in view."""
    counted = truth.counted
    return best_iou(score_histogram(score[counted], truth.occupied[counted]))[1]


def score_window(window: Window, predictors: Mapping[str, Predictor], baselines: Baselines) -> WindowScores:
    """Score methods, by name, and baselines on one window."""
    depth = {name: DepthMetric() for name in (*predictors, "mean depth")}
    camera = window.camera
    mean = resize_depth(baselines.depth, camera.height, camera.width)
    for index in range(len(window.sequence)):
        truth, image = window.depth_truth(index), window.image(index)
        depth["mean depth"].update(mean, truth)
        for name, predictor in predictors.items():
            depth[name].update(predictor.depth(image, truth > 0.0), truth)
    truth_of_voxels, first = window.voxel_truth(), window.image(0)
    predictions = {name: predictor.voxels(first) for name, predictor in predictors.items()}
    predictions["prior grid"] = VoxelPrediction(baselines.prior, baselines.prior >= baselines.prior_threshold)
    predictions["empty field"] = VoxelPrediction(np.zeros_like(baselines.prior), np.zeros(VOXEL_SHAPE, dtype=bool))
    regions = grid_regions(truth_of_voxels)
    stated = {name: found.probability for name, found in predictions.items() if found.probability is not None}
    return WindowScores(
        window=window.name,
        depth={name: metric.compute() for name, metric in depth.items()},
        voxels={name: score_voxels(found, truth_of_voxels, regions) for name, found in predictions.items()},
        cutoffs=score_cutoffs(predictions.values(), truth_of_voxels),
        calibration={name: score_calibration(probability, truth_of_voxels) for name, probability in stated.items()},
    )


def score_voxels(
    prediction: VoxelPrediction, truth: VoxelTruth, regions: Mapping[str, NDArray[np.bool_]]
) -> dict[tuple[float, str], OccupancyScores]:
    """Scores of one prediction by range and region."""
    metric = OccupancyByRange(SEMANTIC_KITTI_GRID)
    metric.update(prediction.score, truth.occupied, truth.known, regions, prediction.occupied)
    return metric.compute()


def score_cutoffs(
    predictions: Iterable[VoxelPrediction], truth: VoxelTruth
) -> dict[str, list[tuple[float, float, float, float]]]:
    """IoU, precision and recall by range, in view, of the first density field at the cut-offs of the literature."""
    density = next((found.density for found in predictions if found.density is not None), None)
    if density is None:
        return {}
    scores: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, cutoff in DENSITY_CUTOFFS.items():
        for range_m, crop in OccupancyByRange(SEMANTIC_KITTI_GRID).crops.items():
            counted = (truth.counted)[crop]
            counts = confusion(density[crop][counted] >= cutoff, truth.occupied[crop][counted])
            row = (range_m, counts.iou, counts.precision, counts.recall)
            scores.setdefault(f"{name}: σ ≥ {cutoff}", []).append(row)
    return scores


def score_calibration(probability: NDArray[np.float32], truth: VoxelTruth) -> CalibrationErrors:
    """Errors of stated probabilities over the known voxels in view."""
    counted = truth.counted
    metric = CalibrationMetric()
    metric.update(probability[counted], truth.occupied[counted])
    return metric.compute()
