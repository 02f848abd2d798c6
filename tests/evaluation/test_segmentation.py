"""Scores of pixels, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from scene_completion_ros.evaluation.metric import Scores
from scene_completion_training.evaluation.segmentation import (
    CLASSES,
    LEARNED,
    NAMED_BEFORE,
    NAMED_BY_SCORED,
    SEGMENTATION,
    SegmentationAnswer,
    SegmentationTally,
)

ROAD, BUILDING, SKY, CAR = 0, 2, 10, 13


def answer(labels: list[int], truth: list[int]) -> SegmentationAnswer:
    return SegmentationAnswer(np.array(labels), np.array(truth, np.uint8))


def test_classes_of_two_images_by_hand() -> None:
    """Road 2 of 4 (two right, one missed, one too many), sky 1 of 2, car 0 of 1; 16 classes are nowhere."""
    tally = SegmentationTally(CLASSES, None)
    tally.add(answer([ROAD, ROAD, SKY, 7], [ROAD, ROAD, SKY, 255]))
    tally.add(answer([SKY, ROAD], [ROAD, CAR]))
    tally.add(answer([ROAD], [255]))  # says nothing
    (row,) = tally.rows()
    assert tally.frames == 2 and row["pixels"] == 5 and row["named_by"] == LEARNED
    iou = row["class_iou"]
    assert (iou["road"], iou["sky"], iou["car"]) == (2 / 4, 1 / 2, 0.0)
    assert np.isnan(iou["traffic sign"])  # predicted where nothing counts
    assert row["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 19)
    assert row["mean_iou_of_true"] == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert row["accuracy"] == pytest.approx(3 / 5)


def test_names_of_validation_images_stay_and_those_of_the_scored_are_told_apart() -> None:
    """Clusters 0 and 1 were named road and building; in the scored images they have changed places."""
    naming = np.arange(3, CLASSES + 3) % CLASSES
    naming[:2] = ROAD, BUILDING
    scores = Scores([SEGMENTATION])
    method = SimpleNamespace(name="mine", labels=CLASSES, naming=naming)
    scores.add("KITTI-360", method, answer([0, 0, 0, 1], [BUILDING, BUILDING, ROAD, ROAD]))
    before, bound = scores.rows("segmentation")
    assert (before["named_by"], bound["named_by"]) == (NAMED_BEFORE, NAMED_BY_SCORED)
    assert before["accuracy"] == 1 / 4 and bound["accuracy"] == 3 / 4
    assert before["class_iou"]["road"] == 1 / 4 and before["class_iou"]["building"] == 0.0
    assert bound["class_iou"]["road"] == 1 / 2 and bound["class_iou"]["building"] == 2 / 3
    assert before["class_iou"]["car"] is None
    assert "upper bound" in scores.markdown()
