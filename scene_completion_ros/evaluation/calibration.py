"""From scores to probabilities, and how far stated probabilities are from observed frequencies."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.metric import Answer, Column, Metric, Row, Tally
from scene_completion_ros.evaluation.occupancy import score_values
from scene_completion_ros.voxels.occupancy import Calibration


def fit_calibration(histogram: NDArray[np.int64], *, knots: int = 32) -> Calibration:
    """Fit the map from opacity, the score, to the probability of being occupied.

    The scores are pooled into groups of about equal mass, where free and occupied voxels weigh the same in sum. Nearly
    all voxels are free and near score 0, where few groups suffice. Isotonic regression makes the observed frequencies
    of the groups monotone; each block of equal frequency becomes a knot at its mean score. The map is linear and
    strictly increasing between knots, and from them to the ends of the range. At the ends, scores 0 and 1, it is half
    way to certainty. So thresholds on the score keep their meaning, and the probability ranks voxels as the score does.
    Where the outermost block is certain already, what lies beyond it is as certain. Raises GridError where there are no
    free or no occupied voxels, or all scores are equal. `histogram`: int64 [2, SCORE_BINS] of `score_histogram`, of
    validation data only; `knots`: largest number of knots between the ends.
    """
    from scipy.optimize import isotonic_regression  # training and tests have SciPy, a robot need not

    totals = histogram.sum(axis=1)
    if totals.min() == 0:
        what = f"{totals[0]} free and {totals[1]} occupied voxels"
        raise GridError(what, where="calibration", cure="Fit on voxels of both kinds")
    filled = np.flatnonzero(histogram.sum(axis=0))
    free, occupied = histogram[:, filled].astype(np.float64)
    mass = free / totals[0] + occupied / totals[1]  # 2 in sum
    middle = np.cumsum(mass) - mass / 2.0
    _, group = np.unique((middle / 2.0 * knots).astype(np.int64), return_inverse=True)
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


class CalibrationMetric:
    """Expected calibration error, Brier score, reliability of all voxels of all updates, in `bins` equal bins."""

    def __init__(self, bins: int = 15) -> None:
        # float64 [4, bins]: voxels, sum of stated probability, occupied voxels, sum of squared differences.
        self.sums = np.zeros((4, bins))

    def update(self, probability: NDArray[np.floating[Any]], occupied: NDArray[np.bool_]) -> None:
        """Count voxels: probability and truth (bool) [...]."""
        stated = probability.astype(np.float64).ravel()
        assert ((stated >= 0.0) & (stated <= 1.0)).all(), "probabilities outside of 0..1"
        truth = occupied.ravel().astype(np.float64)
        bins = self.sums.shape[1]
        index = np.minimum((stated * bins).astype(np.int64), bins - 1)
        for row, weights in enumerate((np.ones_like(stated), stated, truth, (stated - truth) ** 2)):
            self.sums[row] += np.bincount(index, weights=weights, minlength=bins)

    def compute(self) -> Row:
        """How far stated probabilities are from observed frequencies; NaN before the first voxel."""
        count, stated, truth, squares = self.sums
        total = np.float64(count.sum())
        with np.errstate(invalid="ignore"):
            bins = zip(count.astype(int).tolist(), (stated / count).tolist(), (truth / count).tolist(), strict=True)
            return {
                # Mean over voxels of |stated - observed| of their bin (Guo et al., ICML 2017).
                "expected_calibration_error": float(np.abs(stated - truth).sum() / total),
                "brier": float(squares.sum() / total),  # mean squared difference of probability and truth
                # Of each bin the mean stated probability, and the share of occupied voxels; NaN in empty ones.
                "reliability": [dict(zip(("voxels", "stated", "observed"), each, strict=True)) for each in bins],
            }


class CalibrationTally(Tally):
    """`CalibrationMetric` of each probability that a method states, over the voxels that count."""

    def __init__(self, _: object) -> None:
        self._stated: dict[str, CalibrationMetric] = {}

    def add(self, answer: Answer) -> None:
        """Count the voxels of a frame."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None or not found.stated:
            return
        for name, probability in found.stated.items():
            metric = self._stated.setdefault(name, CalibrationMetric())
            metric.update(probability[truth.counted], truth.occupied[truth.counted])
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By what is stated."""
        yield from ({"stated": name, **metric.compute()} for name, metric in self._stated.items())


CALIBRATION = Metric(
    "calibration",
    "How far stated probabilities are from observed frequencies, region `all`: before calibration the opacity of a "
    "0.2 m voxel is taken for the probability.",
    (
        Column("expected_calibration_error", "expected calibration error", percent=False),
        Column("brier", "Brier score", percent=False),
    ),
    CalibrationTally,
    by=("stated",),
    headline={"stated": "after"},
)
