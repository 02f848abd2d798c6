"""Semantic scene completion on SSCBench-KITTI-360: the protocol of S4C and SceneDINO, and the official one.

Both count all frames into one confusion matrix (micro average), within 12.8, 25.6 and 51.2 m. A range reaches so far
ahead, half of it to each side, and the full height. Geometry is "any class" against "empty". The mean IoU is over all
classes but "empty"; a class that is neither predicted nor true counts as 0. What is predicted as "empty" is empty,
however dense it is.

They differ in the classes (15 and 18) and in two regions that S4C and SceneDINO leave out. Those are what lies outside
of the camera's field of view, and free space under the road. Their scores cannot be compared with each other.

Hayler et al., "S4C" (3DV 2024); Jevtić et al., "Feed-Forward SceneDINO" (ICCV 2025); Li et al., "SSCBench" (arXiv
2306.09001). Unlike in the published code, renamed clusters carry their class's name into every row of a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.class_confusion import class_confusion, class_iou, mean_iou, renamed
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES, ConfusionCounts
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID, SSCBENCH_CLASSES
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.geometry.grids import VoxelGrid

SSCBENCH_GRID = VoxelGrid((0.0, -25.6, -2.0), 0.2, (256, 256, 32), "velodyne")
GROUND_LAYERS = 7  # height indices in which empty voxels below everything do not count: 1.4 m

SSCBENCH_FREQUENCIES: dict[str, float] = {
    "car": 2.85,
    "bicycle": 0.01,
    "motorcycle": 0.01,
    "truck": 0.16,
    "other-vehicle": 5.75,
    "person": 0.02,
    "road": 14.98,
    "parking": 2.31,
    "sidewalk": 6.43,
    "other-ground": 2.05,
    "building": 15.67,
    "fence": 0.96,
    "vegetation": 41.99,
    "terrain": 7.10,
    "pole": 0.22,
    "traffic-sign": 0.06,
    "other-structure": 4.33,
    "other-object": 0.28,
}
"""Share of the occupied voxels in percent, as SSCBench publishes it."""


@dataclass(frozen=True)
class CompletionProtocol:
    """What one benchmark counts.

    Attributes:
        class_names: Names by id; 0 is "empty".
        class_weights: Weights of the weighted mean IoU by name.
        field_of_view: Only voxels that the camera's image covers count.
        ground_invalid: What lies under the ground does not count, see `additional_invalid`.
        ranges: Metres.
    """

    class_names: tuple[str, ...]
    class_weights: Mapping[str, float]
    field_of_view: bool
    ground_invalid: bool
    ranges: tuple[float, ...] = SSCBENCH_RANGES


S4C_PROTOCOL = CompletionProtocol(
    COMMON_CLASSES,
    # The published weight of "sidewalk" leaves out the 2.31 of the parking lots that count as sidewalk.
    {**{n: w for n, w in SSCBENCH_FREQUENCIES.items() if n in COMMON_CLASSES}, "building": 20.00, "terrain": 9.15},
    field_of_view=True,
    ground_invalid=True,
)
"""15 classes, in the field of view, without free space under the ground: S4C and SceneDINO."""

SSCBENCH_PROTOCOL = CompletionProtocol(
    SSCBENCH_CLASSES, SSCBENCH_FREQUENCIES, field_of_view=False, ground_invalid=False
)
"""18 classes, everywhere: the official scores of supervised methods."""


@dataclass(frozen=True)
class CompletionScores:
    """Scores within one range; NaN where a figure is not defined.

    Attributes:
        iou: IoU of "occupied", any class.
        precision: Share of the voxels predicted as occupied that are.
        recall: Share of the occupied voxels that are predicted as occupied.
        mean_iou: Mean IoU over all classes but "empty"; those that are nowhere count as 0, as published.
        weighted_mean_iou: The same, weighted by how frequent the classes are in SSCBench.
        mean_iou_of_present: Mean IoU over the classes that occur in the truth. Published by nobody; for ground truth
            that has not all classes.
        mean_iou_of_found: Mean IoU over the classes that occur, counted only where truth and prediction are occupied:
            what things are called where they are found. Published by nobody; it takes the geometry out.
        class_iou: Class name -> IoU; NaN for classes that are neither predicted nor true.
    """

    voxels: int
    iou: float
    precision: float
    recall: float
    mean_iou: float
    weighted_mean_iou: float
    mean_iou_of_present: float
    mean_iou_of_found: float
    class_iou: dict[str, float]


def additional_invalid(truth: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Empty voxels of the lowest layers that have no occupied voxel below them in their column.

    LiDAR sees no ground through the ground: below it, free is only what was never measured.

    Args:
        truth: Classes [X, Y, Z], z up, after they are mapped; 255 does not count and is not occupied.

    Returns:
        bool [X, Y, Z].
    """
    low = truth[..., :GROUND_LAYERS]
    occupied = (low != EMPTY) & (low != INVALID)
    invalid = np.zeros(truth.shape, dtype=np.bool_)
    # An empty voxel is not occupied itself: "none up to here" is "none below".
    invalid[..., :GROUND_LAYERS] = (low == EMPTY) & ~np.logical_or.accumulate(occupied, axis=-1)
    return invalid


def completion_confusion(
    predicted: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    protocol: CompletionProtocol = S4C_PROTOCOL,
    field_of_view: NDArray[np.bool_] | None = None,
    labels: int | None = None,
) -> NDArray[np.int64]:
    """Count the voxels of one grid, or of a part of it that has its full height.

    Args:
        predicted: Labels [X, Y, Z], 0 empty: classes of the protocol, or clusters from 1 on.
        truth: Classes of the protocol [X, Y, Z], 255 does not count.
        field_of_view: bool [X, Y, Z], where the image covers the voxel; for a protocol that wants it.
        labels: Number of predicted labels, "empty" among them; by default the protocol's classes.

    Returns:
        int64 [labels, classes].

    Raises:
        GridError: Shapes differ, labels are out of range, or the protocol's field of view is missing or there is none.
    """
    if (field_of_view is not None) != protocol.field_of_view:
        raise GridError(
            f"{'no ' if field_of_view is None else 'a '}field of view",
            where="protocol",
            cure="Give the camera's" if protocol.field_of_view else "This protocol counts everywhere: leave it out",
        )
    classes = len(protocol.class_names)
    counted = field_of_view
    if protocol.ground_invalid and counted is not None:
        counted = counted & ~additional_invalid(truth)
    elif protocol.ground_invalid:
        counted = ~additional_invalid(truth)
    return class_confusion(predicted, truth, classes if labels is None else labels, classes, counted)


def completion_scores(
    confusion: NDArray[np.int64],
    protocol: CompletionProtocol = S4C_PROTOCOL,
    class_of_label: NDArray[np.integer[Any]] | None = None,
) -> CompletionScores:
    """Score a confusion matrix.

    Args:
        confusion: int64 [labels, classes] of `completion_confusion`.
        class_of_label: int [labels], the class of each predicted label, see `cluster_assignment`; by default labels are
            classes. Labels without a class count as empty.

    Raises:
        GridError: There are as many labels as classes and no names, or other names than labels.
    """
    classes = len(protocol.class_names)
    if class_of_label is None and confusion.shape[0] != classes:
        raise GridError(
            f"{confusion.shape[0]} labels for {classes} classes", where="confusion", cure="Assign the labels to classes"
        )
    names = np.arange(classes) if class_of_label is None else class_of_label
    named = renamed(confusion, names, unassigned=EMPTY)[:classes]
    geometry = ConfusionCounts(
        true_positive=int(named[1:, 1:].sum()),
        false_positive=int(named[1:, EMPTY].sum()),
        false_negative=int(named[EMPTY, 1:].sum()),
        true_negative=int(named[EMPTY, EMPTY]),
    )
    iou = class_iou(named)[1:]
    weights = np.array([protocol.class_weights[name] for name in protocol.class_names[1:]])
    return CompletionScores(
        voxels=int(named.sum()),
        iou=geometry.iou,
        precision=geometry.precision,
        recall=geometry.recall,
        mean_iou=mean_iou(iou),
        weighted_mean_iou=mean_iou(iou, weights),
        mean_iou_of_present=mean_iou(iou[named.sum(axis=0)[1:] > 0]),
        mean_iou_of_found=_mean_iou_of_found(named[1:, 1:]),
        class_iou={name: float(value) for name, value in zip(protocol.class_names[1:], iou, strict=True)},
    )


def _mean_iou_of_found(found: NDArray[np.int64]) -> float:
    return mean_iou(class_iou(found)[found.sum(axis=0) > 0])


class SemanticCompletionMetric:
    """Scores over all grids of all updates, within each range of a protocol.

    Args:
        grid: Where truth and predictions lie; another one than SSCBench's has to hold the same ranges.
        labels: Number of predicted labels, "empty" among them; by default the protocol's classes.

    Attributes:
        confusion: Range -> int64 [labels, classes].
    """

    def __init__(
        self, protocol: CompletionProtocol = S4C_PROTOCOL, grid: VoxelGrid = SSCBENCH_GRID, labels: int | None = None
    ) -> None:
        self.protocol = protocol
        self.grid = grid
        self.labels = len(protocol.class_names) if labels is None else labels
        self.crops = {range_m: grid.cropped(range_m)[1] for range_m in protocol.ranges}
        shape = (self.labels, len(protocol.class_names))
        self.confusion = {range_m: np.zeros(shape, dtype=np.int64) for range_m in protocol.ranges}

    def update(
        self,
        predicted: NDArray[np.integer[Any]],
        truth: NDArray[np.integer[Any]],
        field_of_view: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one grid [X, Y, Z]; see `completion_confusion`."""
        if predicted.shape != self.grid.shape or truth.shape != self.grid.shape:
            raise GridError(
                f"shapes {predicted.shape} and {truth.shape} instead of {self.grid.shape}",
                where="labels",
                cure="Give whole grids",
            )
        for range_m, crop in self.crops.items():
            mask = None if field_of_view is None else field_of_view[crop]
            counts = completion_confusion(predicted[crop], truth[crop], self.protocol, mask, self.labels)
            self.confusion[range_m] += counts

    def compute(self, class_of_label: NDArray[np.integer[Any]] | None = None) -> dict[float, CompletionScores]:
        """Range -> scores; see `completion_scores`."""
        return {
            range_m: completion_scores(counts, self.protocol, class_of_label)
            for range_m, counts in self.confusion.items()
        }


COLUMNS = (
    Column("mean_iou", "mIoU"),
    Column("mean_iou_of_present", "mIoU of present"),
    Column("mean_iou_of_found", "mIoU where found"),
    Column("iou", "IoU"),
)


class SemanticTally(Tally):
    """`SemanticCompletionMetric` of a method's labels, which its own ways of naming turn into classes afterwards."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self._metric: SemanticCompletionMetric | None = None

    def add(self, answer: Any) -> None:
        """Count the labels of a frame: `labels` and true `classes`, [X, Y, Z], of its voxels in view."""
        truth = answer.truth.voxels
        if self._metric is None:
            self._metric = SemanticCompletionMetric(grid=truth.grid, labels=self._method.labels)
        self._metric.update(answer.labels, answer.classes, truth.regions[ALL])
        self.frames += 1

    @property
    def confusion(self) -> dict[float, NDArray[np.int64]]:
        """Range -> counts of labels and classes."""
        return {} if self._metric is None else self._metric.confusion

    def rows(self) -> Iterator[Row]:
        """By naming and range."""
        assert self._metric is not None
        for naming in self._method.namings:
            names = self._method.names(naming)
            for range_m, scores in self._metric.compute(names).items():
                yield {"naming": naming, "range_m": range_m, "class_of_label": names.tolist(), **asdict(scores)}


SEMANTICS = Metric(
    "semantics",
    "Semantic scene completion under the protocol of S4C, in percent; `naming` says how clusters got their names.",
    COLUMNS,
    SemanticTally,
    by=("naming",),
    across="range_m",
    classes="class_iou",
)
