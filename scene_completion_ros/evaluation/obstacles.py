"""Scores of obstacles: a robot meets things, and most occupied voxels are ground.

By the classes of a truth, an obstacle is what is occupied and no ground. Where there are none, and of all predictions,
it is what rises above the lowest occupied voxel nearby. An obstacle is found if one is predicted within a tolerance of
it, and a prediction is right if there is one within that: the precision and recall of points that Knapitsch et al.
score ("Tanks and Temples", ACM Transactions on Graphics 2017).
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt

from scene_completion_ros.arrays import Doubles, Floats, Ints, Mask
from scene_completion_ros.evaluation import occupancy
from scene_completion_ros.evaluation.metric import Answer, Metric, Row, Tally, columns
from scene_completion_ros.evaluation.semantic_classes import GROUND_CLASSES
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry.grids import VoxelGrid, measure_of

# Metres in a street, see `measure_of`: how far obstacles rise above the lowest occupied voxel, of columns in blocks so
# wide; and the tolerance, which may grow to a share of the distance from the camera.
GROUND_M, BLOCK_M, TOLERANCE_M, TOLERANCE_SHARE = 0.35, 1.6, 0.6, 0.05
FIXED, GROWING = "fixed", "growing"
_ROUNDING = 1.0 + 1e-6  # three voxels of 0.2 m are within 0.6 m


def risen(occupied: Mask, grid: VoxelGrid) -> Mask:
    """Obstacles by geometry [X, Y, Z]: occupied, and above the lowest occupied voxel of a block of columns."""
    measure, size = measure_of(grid), grid.voxel_size
    block, top = max(1, round(BLOCK_M * measure / size)), grid.shape[2]
    lowest = np.where(occupied.any(axis=2), occupied.argmax(axis=2), top)
    for axis in (0, 1):
        blocks = np.minimum.reduceat(lowest, np.arange(0, grid.shape[axis], block), axis=axis)
        lowest = blocks.repeat(block, axis=axis).take(np.arange(grid.shape[axis]), axis=axis)
    return np.asarray(occupied & ((np.arange(top) - lowest[..., None]) * size > GROUND_M * measure))


def true_obstacles(truth: VoxelTruth) -> Mask:
    """Known obstacles [X, Y, Z], by class where there are classes, and by geometry elsewhere."""
    occupied = truth.occupied & truth.known
    if truth.label is None:
        return risen(occupied, truth.grid)
    ground = [number for number, name in enumerate(truth.class_map.target) if name in GROUND_CLASSES]
    return np.asarray(occupied & ~np.isin(truth.class_map.apply(truth.label), ground))


def tolerances(truth: VoxelTruth) -> dict[str, Floats]:
    """How far off a voxel may be, float32 [X, Y, Z], metres: everywhere alike, and growing with the distance."""
    fixed = np.full(truth.grid.shape, TOLERANCE_M * measure_of(truth.grid) * _ROUNDING, np.float32)
    distance = np.linalg.norm(truth.grid.centres() - truth.grid_from_camera.translation.astype(np.float32), axis=-1)
    return {FIXED: fixed, GROWING: np.maximum(fixed, np.float32(TOLERANCE_SHARE * _ROUNDING) * distance)}


def distance_to(mask: Mask, voxel_size: float) -> Doubles:
    """Distance of the centres of voxels [X, Y, Z] to that of the nearest one of a mask, metres; infinite if none."""
    return np.asarray(distance_transform_edt(~mask, sampling=voxel_size)) if mask.any() else np.full(mask.shape, np.inf)


class ObstacleTally(Tally):
    """Obstacles that are found and right, of each rule by which a method calls voxels occupied and each tolerance."""

    def __init__(self, _: object) -> None:
        # By rule, tolerance and range, int64 [4]: true obstacles that are found, all; predicted ones that are right,
        # all.
        self._counts: dict[tuple[str, str, float], Ints] = {}
        self._histograms: dict[float, Ints] = {}  # by range, see `score_histogram`

    def add(self, answer: Answer) -> None:
        """Count the obstacles of a frame, in the region `ALL`. Raises GridError if no range fits into the grid."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None:
            return
        grid, true, within = truth.grid, true_obstacles(truth), tolerances(truth)
        counted = truth.counted if found.covered is None else truth.counted & found.covered
        crops = occupancy.crops_within(grid)
        above_ground = counted & (true | ~truth.occupied)
        for range_m, crop in crops.items():
            histogram = self._histograms.setdefault(range_m, np.zeros((2, occupancy.SCORE_BINS), np.int64))
            scored = above_ground[crop]
            histogram += occupancy.score_histogram(found.score[crop][scored], true[crop][scored])
        to_true = distance_to(true, grid.voxel_size)
        for rule, occupied in found.occupied.items():
            predicted = risen(occupied & truth.known, grid)
            to_predicted = distance_to(predicted, grid.voxel_size)
            for (name, tolerance), (range_m, crop) in product(within.items(), crops.items()):
                wanted, called, near = (true & counted)[crop], (predicted & counted)[crop], tolerance[crop]
                masks = wanted & (to_predicted[crop] <= near), wanted, called & (to_true[crop] <= near), called
                counts = self._counts.setdefault((rule, name, range_m), np.zeros(4, np.int64))
                counts += np.array([np.count_nonzero(mask) for mask in masks])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By rule, tolerance and range; NaN where a figure is not defined."""
        for (rule, tolerance, range_m), counts in self._counts.items():
            found, true, right, predicted = counts.tolist()
            recall, precision = occupancy.ratio(found, true), occupancy.ratio(right, predicted)
            both, ranked = recall + precision, occupancy.average_precision(self._histograms[range_m])
            f_score = 2.0 * recall * precision / both if both else both
            figures = {"recall": recall, "precision": precision, "f_score": f_score, "average_precision": ranked}
            yield {"rule": rule, "tolerance": tolerance, "range_m": range_m, "obstacles": true, **figures}


OBSTACLES = Metric(
    "obstacles",
    "Obstacles in view, in percent: occupied voxels that are no ground, by class, or else more than 0.35 m above the "
    "lowest occupied voxel within a square of 1.6 m. Recall is the share of them with a predicted one within 0.6 m, or "
    "where the tolerance grows, within 5 % of the distance; precision is the converse. In rooms, lengths are a quarter "
    "of these. Average precision has no tolerance, and leaves out the true ground.",
    columns("recall, precision, f_score: F, average_precision"),
    ObstacleTally,
    by=("rule", "tolerance"),
    across="range_m",
    headline={"tolerance": FIXED},
)
