"""Semantic scene completion on SSCBench-KITTI-360 under the protocol of S4C and SceneDINO.

All frames are counted into one confusion matrix (micro average), within 12.8, 25.6 and 51.2 m. A range reaches so far
ahead, half of it to each side, and the full height. Geometry is "any class" against "empty". The mean IoU is over all
classes but "empty"; a class that is neither predicted nor true counts as 0. What is predicted as "empty" is empty,
however dense it is. Unlike in SSCBench's official protocol of 18 classes, what lies outside of the camera's field of
view does not count, nor does free space under the road: the scores of the two cannot be compared.

Hayler et al., "S4C" (3DV 2024); Jevtić et al., "Feed-Forward SceneDINO" (ICCV 2025); Li et al., "SSCBench" (arXiv
2306.09001). Unlike in the published code, renamed clusters carry their class's name into every row of a result.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.class_confusion import (
    UNASSIGNED,
    class_confusion,
    class_iou,
    match_one_to_one,
    mean_iou,
    renamed,
)
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES, ranges_within, shares
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, COMMON_SHARES, EMPTY, INVALID
from scene_completion_ros.geometry.grids import VoxelGrid

SSCBENCH_GRID = VoxelGrid((0.0, -25.6, -2.0), 0.2, (256, 256, 32), "velodyne")
GROUND_LAYERS = 7  # height indices in which empty voxels below everything do not count: 1.4 m


def additional_invalid(truth: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Empty voxels of the lowest layers that have no occupied voxel below them in their column.

    LiDAR sees no ground through the ground: below it, free is only what was never measured. Returns bool [X, Y, Z].
    `truth`: classes [X, Y, Z], z up, after they are mapped; 255 does not count and is not occupied.
    """
    low = truth[..., :GROUND_LAYERS]
    occupied = (low != EMPTY) & (low != INVALID)
    invalid = np.zeros(truth.shape, dtype=np.bool_)
    # An empty voxel is not occupied itself: "none up to here" is "none below".
    invalid[..., :GROUND_LAYERS] = (low == EMPTY) & ~np.logical_or.accumulate(occupied, axis=-1)
    return invalid


def completion_confusion(
    predicted: NDArray[np.integer[Any]],  # labels [X, Y, Z], 0 empty: classes, or clusters from 1 on
    truth: NDArray[np.integer[Any]],  # classes [X, Y, Z], 255 does not count
    field_of_view: NDArray[np.bool_],  # bool [X, Y, Z], where the image covers the voxel
    labels: int = len(COMMON_CLASSES),  # number of predicted labels, "empty" among them
    classes: int = len(COMMON_CLASSES),  # number of classes, "empty" among them
) -> NDArray[np.int64]:
    """Count voxels of full columns: int64 [labels, classes]."""
    return class_confusion(predicted, truth, labels, classes, field_of_view & ~additional_invalid(truth))


def completion_scores(
    confusion: NDArray[np.int64],  # int64 [labels, classes] of `completion_confusion`
    # int [labels], the class of each predicted label, see `class_confusion`; by default labels are classes. Labels
    # without a class count as empty.
    class_of_label: NDArray[np.integer[Any]] | None = None,
    class_names: tuple[str, ...] = COMMON_CLASSES,  # names by id; 0 is "empty"
) -> Row:
    """Score a confusion matrix, NaN where a figure is not defined.

    `iou`, `precision` and `recall` are those of "occupied", any class.
    """
    classes = len(class_names)
    names = np.arange(classes) if class_of_label is None else class_of_label
    named = renamed(confusion, names, unassigned=EMPTY)[:classes]
    iou, found = class_iou(named)[1:], named[1:, 1:]
    weight = np.array([COMMON_SHARES.get(name, np.nan) for name in class_names[1:]])
    return {
        "voxels": int(named.sum()),
        **shares(int(found.sum()), int(named[1:].sum()), int(named[:, 1:].sum())),
        "mean_iou": mean_iou(iou),  # over all classes but "empty"; those that are nowhere count as 0, as published
        # Over the classes that occur in the truth. Published by nobody; for ground truth that has not all classes.
        "mean_iou_of_present": mean_iou(iou[named.sum(axis=0)[1:] > 0]),
        # Over the classes that occur, counted only where truth and prediction are occupied: what things are called
        # where they are found. Published by nobody; it takes the geometry out.
        "mean_iou_of_found": mean_iou(class_iou(found)[found.sum(axis=0) > 0]),
        # By how frequent classes are (`COMMON_SHARES`); those that are nowhere count as 0. NaN for other classes.
        "weighted_mean_iou": float((weight * np.nan_to_num(iou)).sum() / weight.sum()),
        "class_iou": dict(zip(class_names[1:], iou.tolist(), strict=True)),  # NaN if neither predicted nor true
    }


class SemanticCompletionMetric:
    """Scores over all grids of all updates, within each range."""

    def __init__(
        self,
        grid: VoxelGrid = SSCBENCH_GRID,  # where truth and predictions lie; it has to hold the ranges
        labels: int | None = None,  # number of predicted labels, "empty" among them; by default the classes
        class_names: tuple[str, ...] = COMMON_CLASSES,  # names by id; 0 is "empty"
        ranges: tuple[float, ...] = SSCBENCH_RANGES,  # metres
    ) -> None:
        self.grid = grid
        self.class_names = class_names
        self.labels = len(class_names) if labels is None else labels
        self.crops = {range_m: grid.cropped(range_m) for range_m in ranges}
        # Range -> int64 [labels, classes].
        self.confusion = {range_m: np.zeros((self.labels, len(class_names)), dtype=np.int64) for range_m in ranges}

    def update(
        self, predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], field_of_view: NDArray[np.bool_]
    ) -> None:
        """Count one grid [X, Y, Z]; see `completion_confusion`."""
        assert predicted.shape == truth.shape == self.grid.shape
        for range_m, crop in self.crops.items():
            found = predicted[crop], truth[crop], field_of_view[crop]
            self.confusion[range_m] += completion_confusion(*found, self.labels, len(self.class_names))

    def compute(self, class_of_label: NDArray[np.integer[Any]] | None = None) -> dict[float, Row]:
        """Range -> scores; see `completion_scores`."""
        return {
            range_m: completion_scores(counts, class_of_label, self.class_names)
            for range_m, counts in self.confusion.items()
        }


COLUMNS = (
    Column("mean_iou", "mIoU"),
    Column("mean_iou_of_present", "mIoU of present"),
    Column("mean_iou_of_found", "mIoU where found"),
    Column("iou", "IoU"),
)


class SemanticTally(Tally):
    """`SemanticCompletionMetric` of a method's labels, which its `names` turn into classes afterwards."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self._metric: SemanticCompletionMetric | None = None

    def add(self, answer: Any) -> None:
        """Count the labels of a frame: `labels` and true `classes`, [X, Y, Z], of its voxels in view."""
        truth = answer.truth.voxels
        if self._metric is None:
            names, ranges = truth.class_map.target, ranges_within(truth.grid)
            self._metric = SemanticCompletionMetric(truth.grid, self._method.labels, names, ranges)
        self._metric.update(answer.labels, answer.classes, truth.everything)
        self.frames += 1

    @property
    def confusion(self) -> dict[float, NDArray[np.int64]]:
        """Range -> counts of labels and classes."""
        return {} if self._metric is None else self._metric.confusion

    def rows(self) -> Iterator[Row]:
        """By range."""
        yield from self._rows(self._method.names())

    def _rows(self, names: NDArray[np.int64]) -> Iterator[Row]:
        assert self._metric is not None
        for range_m, scores in self._metric.compute(names).items():
            yield {"range_m": range_m, "class_of_label": names.tolist(), **scores}


class TwiceNamedTally(SemanticTally):
    """The figures by the method's own names, and by those that fit the scored voxels best, as SceneDINO has both."""

    def rows(self) -> Iterator[Row]:
        """By naming and range."""
        direct = np.asarray(self._method.names())
        counts = renamed(self.confusion[max(self.confusion)], direct, unassigned=EMPTY)[:-1]
        stay = np.eye(len(counts), dtype=np.int64)  # where nothing is won by another name
        best = match_one_to_one(2 * len(counts) * counts + stay)[np.where(direct == UNASSIGNED, EMPTY, direct)]
        for naming, names in {"direct": direct, "hungarian (upper bound)": best}.items():
            yield from ({"naming": naming, **row} for row in self._rows(names))


SEMANTICS = Metric(
    "semantics",
    "Semantic scene completion under the protocol of S4C, in percent; each cluster names one class (Hungarian).",
    COLUMNS,
    SemanticTally,
    across="range_m",
    classes="class_iou",
)

SSCBENCH = Metric(
    "sscbench",
    "SSCBench-KITTI-360 under the protocol of S4C and SceneDINO, in percent. Direct: as clusters are named on other "
    "frames. Hungarian: as the scored voxels themselves would name the classes, which is an upper bound.",
    (
        Column("mean_iou", "mIoU"),
        Column("weighted_mean_iou", "weighted mIoU"),
        Column("iou", "IoU"),
        Column("precision", "precision"),
        Column("recall", "recall"),
    ),
    TwiceNamedTally,
    by=("naming",),
    across="range_m",
    classes="class_iou",
)
