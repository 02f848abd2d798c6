"""Semantic segmentation of images: accuracy and mean IoU of pixels over Cityscapes' 19 classes.

Labels are classes, or clusters with names from other images than the scored ones. SceneDINO (Jevtić et al., ICCV 2025)
names clusters by the scored images themselves: that row is an upper bound, and says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.class_confusion import (
    class_confusion,
    class_iou,
    match_one_to_one,
    mean_iou,
    renamed,
)
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES

CLASSES = len(CITYSCAPES_CLASSES)
# Where the labels of a method have their classes from.
NAMED_BEFORE, NAMED_BY_SCORED, LEARNED = "validation images", "the scored images (upper bound)", "learned from labels"


@dataclass(frozen=True, eq=False)
class SegmentationAnswer:
    """Labels of the pixels of an image [N] beside their classes, uint8 [N], by train id; 255 does not count."""

    labels: NDArray[np.int64]
    truth: NDArray[np.uint8]


class SegmentationTally(Tally):
    """Confusion of labels with classes over all pixels of all images.

    Methods have `labels`, the number of their labels, and `naming`: their classes [labels], None where they are these.
    """

    def __init__(self, labels: int, naming: NDArray[np.int64] | None) -> None:
        self._naming = naming
        self.confusion = np.zeros((labels, CLASSES), np.int64)  # int64 [labels, 19]

    def add(self, answer: SegmentationAnswer) -> None:
        """Count an image, if any of its pixels has a class."""
        found = class_confusion(answer.labels, answer.truth, len(self.confusion), CLASSES)
        self.confusion += found
        self.frames += bool(found.any())

    def rows(self) -> Iterator[Row]:
        """With the classes of the labels; of clusters also with those that fit the scored images best."""
        if self._naming is None:
            yield self._row(LEARNED, np.arange(CLASSES))
            return
        yield self._row(NAMED_BEFORE, self._naming)
        yield self._row(NAMED_BY_SCORED, match_one_to_one(self.confusion))

    def _row(self, naming: str, classes: NDArray[np.int64]) -> Row:
        confusion = renamed(self.confusion, classes)
        iou, true = class_iou(confusion), confusion.sum(axis=0)
        return {
            "named_by": naming,
            "pixels": int(true.sum()),
            "mean_iou": mean_iou(iou),
            "mean_iou_of_true": mean_iou(iou[true > 0]),
            "accuracy": float(np.trace(confusion) / true.sum()) if true.any() else float("nan"),
            "class_iou": dict(zip(CITYSCAPES_CLASSES, iou.tolist(), strict=True)),
        }


SEGMENTATION = Metric(
    "segmentation",
    "Classes of pixels, in percent. The mean is over all 19 classes of Cityscapes; those that are nowhere count as 0. "
    "Beside it stands the mean over the classes that occur in the truth.",
    (Column("mean_iou", "mIoU"), Column("mean_iou_of_true", "mIoU of classes there"), Column("accuracy", "accuracy")),
    lambda method: SegmentationTally(method.labels, method.naming),
    by=("named_by",),
    classes="class_iou",
)
