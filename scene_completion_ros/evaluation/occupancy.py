"""Scores of predicted occupancy: IoU, precision and recall at a threshold, best IoU and average precision.

Average precision and best IoU need every score. They are kept as a histogram over half-precision floats. Scores between
0 and 1 fall into 15 361 bins that are finest near 0, where the opacities of a density field lie. Both figures are exact
for scores rounded to half precision (11 significant bits).
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import numpy as np

from scene_completion_ros.arrays import Doubles, Ints, Mask, Reals
from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.metric import Answer, Metric, Row, Tally, columns
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.voxels.occupancy import Calibration

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


def score_histogram(score: Reals, occupied: Mask) -> Ints:
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


def score_values() -> Doubles:
    """Score that each bin of `score_histogram` stands for: float64 [SCORE_BINS], increasing."""
    return np.arange(SCORE_BINS, dtype=np.uint16).view(np.float16).astype(np.float64)


def average_precision(histogram: Ints) -> float:
    """Sum over thresholds of precision times the step of recall, NaN without positives.

    `histogram`: negatives and positives by increasing score, int64 [2, B].
    """
    free, occupied = histogram[:, ::-1]
    positives = int(occupied.sum())
    if positives == 0:
        return float("nan")
    true_positive = np.cumsum(occupied)
    predicted = np.maximum(true_positive + np.cumsum(free), 1)
    return float(np.sum(true_positive / predicted * occupied) / positives)


def best_iou(histogram: Ints) -> tuple[float, float]:
    """Largest IoU over all thresholds and the threshold that reaches it, from int64 [2, SCORE_BINS].

    The threshold lies half way to the next smaller score that half precision has, so that `score >= threshold` selects
    what was counted. NaN without positives.
    """
    free, occupied = histogram[:, ::-1]
    positives = int(occupied.sum())
    if positives == 0:
        return float("nan"), float("nan")
    iou = np.cumsum(occupied) / (positives + np.cumsum(free))
    best = SCORE_BINS - 1 - int(np.argmax(iou))
    values = score_values()
    return float(iou.max()), float((values[best] + values[max(best - 1, 0)]) / 2.0)


class OccupancyMetric:
    """Scores over all voxels of all updates."""

    def __init__(self) -> None:
        self.counts = np.zeros(4, dtype=np.int64)  # voxels; those predicted and occupied, predicted, occupied
        self.histogram = np.zeros((2, SCORE_BINS), dtype=np.int64)  # int64 [2, SCORE_BINS], see `score_histogram`

    def update(self, score: Reals, occupied: Mask, predicted: Mask) -> None:
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


def crops_within(grid: VoxelGrid) -> dict[float, tuple[slice, slice, slice]]:
    """SSCBench's ranges within a grid, metres, else 1/4, 1/2, 1 of its own, and the slices [X, Y, Z] of each.

    Raises GridError if it is no square.
    """
    whole = round(min(grid.shape[:2]) * grid.voxel_size, 6)
    for ranges in (SSCBENCH_RANGES, [round(whole / share, 6) for share in (4, 2, 1)]):
        crops = {}
        for range_m in ranges:
            with suppress(GridError):
                crops[range_m] = grid.cropped(range_m)
        if crops and (whole in crops or ranges is SSCBENCH_RANGES):
            return crops
    raise GridError(f"no range fits into {grid.shape} voxels", where="ground truth", cure="Give a square grid")


class OccupancyTally(Tally):
    """`OccupancyMetric` of each rule by which a method calls voxels occupied, and how much of the truth it covers."""

    def __init__(self, _: object) -> None:
        self._metrics: dict[tuple[str, float, str], OccupancyMetric] = {}  # by rule, range and region
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
        crops = crops_within(truth.grid)
        for rule, occupied in found.occupied.items():
            for (range_m, crop), (region, mask) in product(crops.items(), truth.regions_with_interiors.items()):
                counted = (truth.known & covered & mask)[crop]
                metric = self._metrics.setdefault((rule, range_m, region), OccupancyMetric())
                metric.update(found.score[crop][counted], truth.occupied[crop][counted], occupied[crop][counted])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By rule, range and region."""
        covered = ratio(self._covered, self._counted)
        for (rule, range_m, region), metric in self._metrics.items():
            yield {"rule": rule, "range_m": range_m, "region": region, "covered": covered, **metric.compute()}


OCCUPANCY = Metric(
    "voxels",
    "Voxels in view, in percent. `occluded` is hidden from the camera and not inside of a house, car or crown. `all` "
    "is visible or occluded. `interiors` are those insides, which no sensor sees. What is below the ground or unknown "
    "does not count. Best IoU and average precision do not depend on the rule by which a voxel is called occupied; of "
    "a method without any score they are those of calling everything occupied.",
    columns("covered, occupied_fraction: occupied, iou: IoU, precision, recall, best_iou: best IoU, average_precision"),
    OccupancyTally,
    by=("rule", "region"),
    across="range_m",
    headline={"region": ALL},
)


_MOST_KNOTS = 32  # of a calibration, between the ends of its range


def fit_calibration(histogram: Ints) -> Calibration:
    """Fit the map from opacity, the score, to the probability of being occupied.

    The scores are pooled into groups of about equal mass, where free and occupied voxels weigh the same in sum. Nearly
    all voxels are free and near score 0, where few groups suffice. Isotonic regression makes the observed frequencies
    of the groups monotone; each block of equal frequency becomes a knot at its mean score. The map is linear and
    strictly increasing between knots, and from them to the ends of the range. At the ends, scores 0 and 1, it is half
    way to certainty. So thresholds on the score keep their meaning, and the probability ranks voxels as the score does.
    Where the outermost block is certain already, what lies beyond it is as certain. Raises GridError where there are no
    free or no occupied voxels, or all scores are equal. `histogram`: int64 [2, SCORE_BINS] of `score_histogram`, of
    validation data only.
    """
    from scipy.optimize import isotonic_regression  # of SciPy 1.12: a training has it, a robot need not

    totals = histogram.sum(axis=1)
    if totals.min() == 0:
        what = f"{totals[0]} free and {totals[1]} occupied voxels"
        raise GridError(what, where="calibration", cure="Fit on voxels of both kinds")
    filled = np.flatnonzero(histogram.sum(axis=0))
    free, occupied = histogram[:, filled].astype(np.float64)
    mass = free / totals[0] + occupied / totals[1]  # 2 in sum
    middle = np.cumsum(mass) - mass / 2.0
    _, group = np.unique((middle / 2.0 * _MOST_KNOTS).astype(np.int64), return_inverse=True)
    count = np.bincount(group, weights=free + occupied)
    score = np.bincount(group, weights=(free + occupied) * score_values()[filled]) / count
    observed = np.bincount(group, weights=occupied) / count
    frequency = isotonic_regression(observed, weights=count).x
    levels, block = np.unique(frequency, return_inverse=True)
    block_count = np.bincount(block, weights=count)
    block_score = np.bincount(block, weights=count * score) / block_count
    if block_score.size < 2:
        what = "the score does not tell occupied from free voxels"
        raise GridError(what, where="calibration", cure="Train the student longer")
    # Knots half way to certainty at the ends of the range: below the first and above the last block, scores still rank.
    table = [(float(s), float(p)) for s, p in zip(block_score, levels, strict=True)]
    if table[0][0] > 0.0 and table[0][1] > 0.0:
        table.insert(0, (0.0, table[0][1] / 2.0))
    if table[-1][0] < 1.0 and table[-1][1] < 1.0:
        table.append((1.0, (1.0 + table[-1][1]) / 2.0))
    knot_scores, probabilities = zip(*table, strict=True)
    return Calibration("piecewise_linear", knot_scores, probabilities)


def calibration_sums(probability: Reals, occupied: Mask, bins: int = 15) -> Doubles:
    """Voxels, sum of stated probability, occupied voxels, sum of squared differences in equal bins: float64 [4, bins].

    `probability` and truth `occupied` (bool) of voxels: [...].
    """
    stated, truth = probability.astype(np.float64).ravel(), occupied.ravel().astype(np.float64)
    assert ((stated >= 0.0) & (stated <= 1.0)).all(), "probabilities outside of 0..1"
    index = np.minimum((stated * bins).astype(np.int64), bins - 1)
    weights = np.ones_like(stated), stated, truth, (stated - truth) ** 2
    return np.stack([np.bincount(index, weights=row, minlength=bins) for row in weights])


def calibration_errors(sums: Doubles) -> Row:
    """How far stated probabilities are from observed frequencies, by `calibration_sums`; NaN without voxels."""
    count, stated, truth, squares = sums
    with np.errstate(invalid="ignore"):
        bins = zip(count.astype(int).tolist(), (stated / count).tolist(), (truth / count).tolist(), strict=True)
        return {
            # Mean over voxels of |stated - observed| of their bin (Guo et al., ICML 2017).
            "expected_calibration_error": float(np.abs(stated - truth).sum() / count.sum()),
            "brier": float(squares.sum() / count.sum()),  # mean squared difference of probability and truth
            # Of each bin the mean stated probability, and the share of occupied voxels; NaN in empty ones.
            "reliability": [dict(zip(("voxels", "stated", "observed"), each, strict=True)) for each in bins],
        }


class CalibrationTally(Tally):
    """`calibration_errors` of each probability that a method states, over the voxels that count."""

    def __init__(self, _: object) -> None:
        self._stated: dict[str, Doubles] = {}

    def add(self, answer: Answer) -> None:
        """Count the voxels of a frame."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None or not found.stated:
            return
        for name, probability in found.stated.items():
            sums = calibration_sums(probability[truth.counted], truth.occupied[truth.counted])
            self._stated[name] = self._stated.get(name, 0.0) + sums
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By what is stated."""
        yield from ({"stated": name, **calibration_errors(sums)} for name, sums in self._stated.items())


CALIBRATION = Metric(
    "calibration",
    "How far stated probabilities are from observed frequencies, region `all`: before calibration the opacity of a "
    "0.2 m voxel is taken for the probability.",
    columns("expected_calibration_error, brier: Brier score", percent=False),
    CalibrationTally,
    by=("stated",),
    headline={"stated": "after"},
)
