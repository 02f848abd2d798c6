"""Scores of predicted occupancy: IoU, precision and recall at a threshold, best IoU and average precision.

Average precision and best IoU need every score. They are kept as a histogram over half-precision floats. Scores between
0 and 1 fall into 15 361 bins that are finest near 0, where the opacities of a density field lie. Both figures are exact
for scores rounded to half precision (11 significant bits).
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.metric import Answer, Column, Metric, Row, Tally
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.geometry.grids import VoxelGrid

SCORE_BINS = 0x7C00  # bit patterns of the finite non-negative half-precision floats, ordered like their values
LARGEST_SCORE = float(np.finfo(np.float16).max)
SSCBENCH_RANGES = (12.8, 25.6, 51.2)


def shares(both: int, predicted: int, occupied: int) -> Row:
    """IoU of occupied voxels, precision, recall, of how many are predicted and occupied; NaN where not defined."""
    return {
        "iou": ratio(both, predicted + occupied - both),
        "precision": ratio(both, predicted),  # share of the predicted voxels that are occupied
        "recall": ratio(both, occupied),  # share of the occupied voxels that are predicted
    }


def score_histogram(score: NDArray[np.floating[Any]], occupied: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Histogram of scores rounded to half precision. Returns int64 [2, SCORE_BINS]: free and occupied voxels by score.

    Raises GridError where a score is negative or not a number. `score`: scores [...], larger is
    more occupied: opacity, probability or density, not negative. Scores above 65504 share the last bin. `occupied`:
    truth, bool [...].
    """
    assert score.shape == occupied.shape
    values = np.minimum(score.astype(np.float32, copy=False).ravel(), np.float32(LARGEST_SCORE))
    if values.size and not values.min() >= 0.0:
        raise GridError(f"smallest score is {values.min()}", where="score", cure="Give finite scores of at least 0")
    codes = np.abs(values).astype(np.float16).view(np.uint16)  # abs: -0.0 would take the sign bit along
    truth = occupied.ravel()
    counts = [np.bincount(codes[truth == state], minlength=SCORE_BINS) for state in (False, True)]
    return np.stack(counts).astype(np.int64)


def score_values() -> NDArray[np.float64]:
    """Score that each bin of `score_histogram` stands for: float64 [SCORE_BINS], increasing."""
    return np.arange(SCORE_BINS, dtype=np.uint16).view(np.float16).astype(np.float64)


def average_precision(histogram: NDArray[np.int64]) -> float:
    """Sum over thresholds of precision times the step of recall, from int64 [2, SCORE_BINS]; NaN without positives."""
    free, occupied = histogram[:, ::-1]
    positives = int(occupied.sum())
    if positives == 0:
        return float("nan")
    true_positive = np.cumsum(occupied)
    predicted = np.maximum(true_positive + np.cumsum(free), 1)
    return float(np.sum(true_positive / predicted * occupied) / positives)


def best_iou(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Largest IoU over all thresholds and the threshold that reaches it, from int64 [2, SCORE_BINS].

    The threshold lies half way to the next smaller score that half precision has, so that `score >= threshold` selects
    what was counted. NaN without positives.
    """
    free, occupied = histogram[:, ::-1]
    positives = int(occupied.sum())
    if positives == 0:
        return float("nan"), float("nan")
    true_positive = np.cumsum(occupied)
    iou = true_positive / (positives + np.cumsum(free))
    best = SCORE_BINS - 1 - int(np.argmax(iou))
    values = score_values()
    return float(iou.max()), float((values[best] + values[max(best - 1, 0)]) / 2.0)


class OccupancyMetric:
    """Scores over all voxels of all updates."""

    def __init__(self) -> None:
        self.counts = np.zeros(4, dtype=np.int64)  # voxels; those predicted and occupied, predicted, occupied
        self.histogram = np.zeros((2, SCORE_BINS), dtype=np.int64)  # int64 [2, SCORE_BINS], see `score_histogram`

    def update(
        self, score: NDArray[np.floating[Any]], occupied: NDArray[np.bool_], predicted: NDArray[np.bool_]
    ) -> None:
        """Count voxels.

        `score`: scores [...], see `score_histogram`; `occupied`: truth, bool [...]; `predicted`: what counts as
        occupied, bool [...]: by some threshold, of the score or of what ranks alike.
        """
        self.histogram += score_histogram(score, occupied)
        counted = (predicted & occupied, predicted, occupied)
        self.counts += np.array([occupied.size, *(int(np.count_nonzero(one)) for one in counted)])

    def compute(self) -> Row:
        """Scores over what was counted; NaN where a figure is not defined."""
        voxels, *counts = self.counts.tolist()
        iou, threshold = best_iou(self.histogram)
        return {
            "voxels": voxels,
            "occupied_fraction": ratio(counts[-1], voxels),  # the average precision of a constant score
            **shares(*counts),
            "best_iou": iou,  # an upper bound: the threshold is chosen on the scored voxels
            "best_threshold": threshold,
            "average_precision": average_precision(self.histogram),  # mean precision over recall
        }


def ratio(part: int, whole: int) -> float:
    """A share; NaN of nothing."""
    return part / whole if whole else float("nan")


def ranges_within(grid: VoxelGrid) -> tuple[float, ...]:
    """SSCBench's ranges within a grid, else 1/4, 1/2, 1 of its own. Raises GridError if it is no square."""
    fitting = [range_m for range_m in SSCBENCH_RANGES if _fits(grid, range_m)]
    whole = round(min(grid.shape[:2]) * grid.voxel_size, 6)
    if not fitting and not _fits(grid, whole):
        raise GridError(f"no range fits into {grid.shape} voxels", where="ground truth", cure="Give a square grid")
    parts = [round(whole / share, 6) for share in (4, 2, 1)]
    return tuple(fitting) or tuple(part for part in parts if _fits(grid, part))


def _fits(grid: VoxelGrid, range_m: float) -> bool:
    try:
        grid.cropped(range_m)
    except GridError:
        return False
    return True


class OccupancyTally(Tally):
    """`OccupancyMetric` of each rule by which a method calls voxels occupied, and how much of the truth it covers."""

    def __init__(self, _: object) -> None:
        self._metrics: dict[str, dict[tuple[float, str], OccupancyMetric]] = {}  # by rule, range and region
        self._grid: VoxelGrid | None = None
        self._counted = self._covered = 0

    def add(self, answer: Answer) -> None:
        """Count the voxels of a frame.

        Raises GridError where the grid is another one than before, or of no size that ranges are scored in.
        """
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None:
            return
        if self._grid not in (None, truth.grid):
            raise GridError("the grid changes between frames", where="ground truth", cure="Score them separately")
        self._grid = truth.grid
        covered = np.ones_like(truth.known) if found.covered is None else found.covered
        self._counted += int(np.count_nonzero(truth.counted))
        self._covered += int(np.count_nonzero(truth.counted & covered))
        crops = {range_m: truth.grid.cropped(range_m) for range_m in ranges_within(truth.grid)}
        for rule, occupied in found.occupied.items():
            metrics = self._metrics.setdefault(rule, {})
            for (range_m, crop), (region, mask) in product(crops.items(), truth.regions_with_interiors.items()):
                counted = (truth.known & covered & mask)[crop]
                metric = metrics.setdefault((range_m, region), OccupancyMetric())
                metric.update(found.score[crop][counted], truth.occupied[crop][counted], occupied[crop][counted])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By rule, range and region."""
        covered = ratio(self._covered, self._counted)
        for rule, metrics in self._metrics.items():
            for (range_m, region), metric in metrics.items():
                yield {"rule": rule, "range_m": range_m, "region": region, "covered": covered, **metric.compute()}


OCCUPANCY = Metric(
    "voxels",
    "Voxels in view, in percent. `occluded` is hidden from the camera and not inside of a house, car or crown. `all` "
    "is visible or occluded. `interiors` are those insides, which no sensor sees. What is below the ground or unknown "
    "does not count. Best IoU and average precision do not depend on the rule by which a voxel is called occupied; of "
    "a method without any score they are those of calling everything occupied.",
    (
        Column("covered", "covered"),
        Column("occupied_fraction", "occupied"),
        Column("iou", "IoU"),
        Column("precision", "precision"),
        Column("recall", "recall"),
        Column("best_iou", "best IoU"),
        Column("average_precision", "average precision"),
    ),
    OccupancyTally,
    by=("rule", "region"),
    across="range_m",
    headline={"region": ALL},
)
