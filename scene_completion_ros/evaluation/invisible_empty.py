"""Scores of occupancy (O) and of invisible and empty space (IE): Wimbauer et al., "Behind the Scenes" (CVPR 2023).

With p the prediction, o the truth and v what is visible, over the points of one frame:

    O_acc  = mean [p = o]                 IE_acc  = mean [p = o | not v]
    O_prec = mean [o | p]                 IE_prec = mean [not o | not p, not v]
    O_rec  = mean [p | o]                 IE_rec  = mean [not p | not o, not v]

and over frames the mean of those in which a score is defined. Read no score without the number of points and of frames
behind it. Under the original protocol an empty field has no occluded points at all and an O_acc of 1.
"""

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

# Share of predicted points above which a field has filled the street; even a town's is free for the most part.
MOST_PREDICTED = 0.9


@dataclass(frozen=True)
class InvisibleEmptyScores:
    """The six scores, of a frame or as means over frames; NaN where not defined."""

    o_acc: float
    o_prec: float
    o_rec: float
    ie_acc: float
    ie_prec: float
    ie_rec: float


@dataclass(frozen=True)
class PointCounts:
    """Points behind the scores, of a frame or summed over frames."""

    points: int
    predicted: int
    occupied: int
    occluded: int
    occluded_free: int  # not visible and not occupied, `t_ie` of the published code: what IE_rec is a share of


@dataclass(frozen=True)
class InvisibleEmptyResult:
    """Means over frames and what they rest on."""

    scores: InvisibleEmptyScores  # means over the frames in which each is defined
    defined: dict[str, int]  # number of these frames, by name of the score
    frames: int
    counts: PointCounts  # points summed over frames

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the scores worthless or not comparable, in words."""
        found = []
        if missing := [name for name in ("occluded", "occupied") if not getattr(self.counts, name)]:
            found.append(f"no {missing[0]} point: O_acc says nothing")
        if not self.counts.predicted:
            found.append("nothing predicted")
        if self.counts.predicted > MOST_PREDICTED * self.counts.points:
            found.append("nearly everything predicted: O_rec, IE_acc say nothing")
        short = [name for name, frames in self.defined.items() if 0 < frames < self.frames]
        if short:
            found.append(f"{', '.join(short)} not defined in every frame")
        return tuple(found)


SCORE_NAMES = tuple(field.name for field in fields(InvisibleEmptyScores))


def invisible_empty_scores(
    predicted: NDArray[np.bool_], occupied: NDArray[np.bool_], visible: NDArray[np.bool_]
) -> InvisibleEmptyScores:
    """Scores of a frame: what the model calls occupied, what is, what is visible (free, or no obstacle); bool [...]."""
    right = predicted == occupied
    return InvisibleEmptyScores(
        o_acc=_mean(right),
        o_prec=_mean(occupied[predicted]),
        o_rec=_mean(predicted[occupied]),
        ie_acc=_mean(right[~visible]),
        ie_prec=_mean(~occupied[~predicted & ~visible]),
        ie_rec=_mean(~predicted[~occupied & ~visible]),
    )


class InvisibleEmptyMetric:
    """Mean over frames of the scores of each frame."""

    def __init__(self) -> None:
        self.sums = np.zeros(len(SCORE_NAMES))  # float64 [6], scores summed over the frames in which they are defined
        self.defined = np.zeros(len(SCORE_NAMES), dtype=np.int64)  # int64 [6], number of these frames
        self.frames = np.zeros(1, dtype=np.int64)
        self.counts = np.zeros(len(fields(PointCounts)), dtype=np.int64)  # int64 [5], `PointCounts`

    def update(self, predicted: NDArray[np.bool_], occupied: NDArray[np.bool_], visible: NDArray[np.bool_]) -> None:
        """Count one frame; see `invisible_empty_scores`."""
        scores = np.array(astuple(invisible_empty_scores(predicted, occupied, visible)))
        self.sums += np.nan_to_num(scores)
        self.defined += ~np.isnan(scores)
        self.frames += 1
        kinds = (predicted, occupied, ~visible, ~visible & ~occupied)
        self.counts += np.array([predicted.size, *(np.count_nonzero(kind) for kind in kinds)])

    def compute(self) -> InvisibleEmptyResult:
        """Means over frames; NaN where a score is defined in none."""
        with np.errstate(invalid="ignore"):
            means = self.sums / self.defined
        return InvisibleEmptyResult(
            scores=InvisibleEmptyScores(*means.tolist()),
            defined=dict(zip(SCORE_NAMES, self.defined.tolist(), strict=True)),
            frames=int(self.frames[0]),
            counts=PointCounts(*self.counts.tolist()),
        )


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
