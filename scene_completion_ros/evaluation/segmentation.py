"""Semantic segmentation of images by classes or by clusters without names: pixel accuracy and mean IoU.

The protocol of unsupervised segmentation (STEGO, Hamilton et al., ICLR 2022; SceneDINO, Jevtić et al., ICCV 2025): all
pixels of all images are counted into one matrix of clusters and classes, the clusters are named, then scored. The mean
is over all classes; one that is neither predicted nor true counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.class_confusion import class_confusion, class_iou, mean_iou, renamed


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over the labelled pixels; NaN where a figure is not defined.

    Attributes:
        pixels: Pixels counted.
        accuracy: Share of them with the right class.
        mean_iou: Mean IoU over all classes; those that are nowhere count as 0, as published.
        mean_iou_of_present: Mean IoU over the classes that occur in the truth.
        class_iou: Class name -> IoU; NaN for classes that are neither predicted nor true.
    """

    pixels: int
    accuracy: float
    mean_iou: float
    mean_iou_of_present: float
    class_iou: dict[str, float]


def segmentation_scores(
    confusion: NDArray[np.int64],
    class_names: tuple[str, ...],
    class_of_label: NDArray[np.integer[Any]] | None = None,
) -> SegmentationScores:
    """Score a confusion matrix.

    Args:
        confusion: int64 [labels, classes] of `class_confusion`.
        class_names: Names by id.
        class_of_label: int [labels], the class of each predicted label, see `cluster_assignment`; by default labels are
            classes. A pixel whose label has no class is wrong.

    Raises:
        GridError: Labels, classes and names do not fit together.
    """
    labels, classes = confusion.shape
    if classes != len(class_names) or (class_of_label is None and labels != classes):
        raise GridError(
            f"{labels} labels, {classes} classes, {len(class_names)} names",
            where="confusion",
            cure="Name every class and assign the labels to classes",
        )
    named = renamed(confusion, np.arange(classes) if class_of_label is None else class_of_label)
    iou, pixels = class_iou(named), int(named.sum())
    return SegmentationScores(
        pixels=pixels,
        accuracy=float(np.trace(named) / pixels) if pixels else float("nan"),
        mean_iou=mean_iou(iou),
        mean_iou_of_present=mean_iou(iou[named.sum(axis=0) > 0]),
        class_iou={name: float(value) for name, value in zip(class_names, iou, strict=True)},
    )


class SegmentationMetric:
    """Scores over all pixels of all updates.

    Args:
        class_names: Names by id.
        labels: Number of predicted labels; by default the classes.

    Attributes:
        confusion: int64 [labels, classes], what `cluster_assignment` fits names to.
    """

    def __init__(self, class_names: tuple[str, ...], labels: int | None = None) -> None:
        self.class_names = class_names
        shape = (len(class_names) if labels is None else labels, len(class_names))
        self.confusion = np.zeros(shape, dtype=np.int64)

    def update(self, predicted: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]]) -> None:
        """Count pixels: labels [...] and classes [...], where -1 and 255 do not count; see `class_confusion`."""
        self.confusion += class_confusion(predicted, truth, *self.confusion.shape)

    def merge(self, other: SegmentationMetric) -> None:
        """Add the state of another accumulator.

        Raises:
            GridError: It has other labels or classes.
        """
        if (other.class_names, other.confusion.shape) != (self.class_names, self.confusion.shape):
            raise GridError("labels or classes differ", where="merge", cure="Merge equal metrics")
        self.confusion += other.confusion

    def compute(self, class_of_label: NDArray[np.integer[Any]] | None = None) -> SegmentationScores:
        """Scores over what was counted; see `segmentation_scores`."""
        return segmentation_scores(self.confusion, self.class_names, class_of_label)
