"""Confusion of predicted labels with true classes, the intersection over union that follows, and names for clusters.

Every confusion matrix here has a row for each predicted label and a column for each true class. Predicted labels may be
clusters without a name; `renamed` gives them one afterwards, exactly as if the predictions themselves were renamed.

An assignment is int64 [clusters]: a class for each cluster, or `UNASSIGNED`. It may be fitted on one set and applied to
another, with `renamed`. Fitting it on the scored set itself, as most published figures do, tells a method what it could
not know. The more clusters, the more a many-to-one assignment such as `match_covering` flatters: tables have
`match_one_to_one`, and a robot's classes cover.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES, CITYSCAPES_TO_COMMON, EMPTY

IGNORED = (-1, 255)  # truth that does not count, of label images and of voxels

UNASSIGNED = -1  # class of a cluster that got none


def class_confusion(
    predicted: NDArray[np.integer[Any]],  # labels [...] in 0 .. labels - 1, where the truth counts; anything elsewhere
    truth: NDArray[np.integer[Any]],  # classes [...] in 0 .. classes - 1; -1 and 255 do not count
    labels: int,
    classes: int,
    counted: NDArray[np.bool_] | None = None,  # bool [...], what else does not count; all by default
) -> NDArray[np.int64]:
    """Counts int64 [labels, classes]."""
    assert predicted.shape == truth.shape and (counted is None or counted.shape == truth.shape)
    keep = (truth != IGNORED[0]) & (truth != IGNORED[1])
    if counted is not None:
        keep &= counted
    found, true = predicted[keep].astype(np.int64), truth[keep].astype(np.int64)
    for name, values, limit in (("predicted", found, labels), ("true", true, classes)):
        assert not values.size or (values.min() >= 0 and values.max() < limit), f"{name} labels outside 0..{limit - 1}"
    return np.bincount(found * classes + true, minlength=labels * classes).reshape(labels, classes).astype(np.int64)


def renamed(
    confusion: NDArray[np.int64], class_of_label: NDArray[np.integer[Any]], unassigned: int | None = None
) -> NDArray[np.int64]:
    """Give the predicted labels of a confusion matrix the names of classes.

    Rows of one class add up, so that row and column i are both class i. So no table made from the result can show a
    class under another one's name. Returns int64 [classes + 1, classes]; the last row holds predictions of no class.
    `confusion`: int64 [labels, classes]; `class_of_label`: [labels], classes or `UNASSIGNED`; `unassigned`: class that
    labels without one count as; by default they are no class's, and wrong everywhere.
    """
    labels, classes = confusion.shape
    names = np.asarray(class_of_label, dtype=np.int64)
    assert names.shape == (labels,) and (names >= UNASSIGNED).all() and (names < classes).all()
    rows = np.where(names == UNASSIGNED, classes if unassigned is None else unassigned, names)
    result = np.zeros((classes + 1, classes), dtype=np.int64)
    np.add.at(result, rows, confusion)
    return result


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of every class: TP / (row + column - TP).

    Returns float64 [classes]; NaN where a class is neither predicted nor true. `confusion`: int64 [rows, classes], rows
    >= classes; row i is what was predicted as class i, further rows are predictions of no class.
    """
    classes = confusion.shape[1]
    hit = np.diagonal(confusion[:classes])
    union = confusion[:classes].sum(axis=1) + confusion.sum(axis=0) - hit
    with np.errstate(invalid="ignore"):
        return np.asarray(hit / union, dtype=np.float64)


def mean_iou(iou: NDArray[np.float64]) -> float:
    """Mean over classes [classes]; a class that is nowhere (NaN) counts as 0."""
    return float(np.nan_to_num(iou).mean()) if iou.size else float("nan")


Match: TypeAlias = Callable[[NDArray[np.integer[Any]]], NDArray[np.int64]]


def match_one_to_one(confusion: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Assign each class to at most one cluster so that most pixels or voxels agree (Hungarian method).

    Returns int64 [clusters]. With more clusters than classes the leftover ones are `UNASSIGNED`; with fewer, some
    classes have no cluster. A cluster may get a class it never falls together with, where only such ones are left.
    `confusion`: [clusters, classes], see `class_confusion`.
    """
    clusters, classes = _linear_sum_assignment(confusion)
    assignment = np.full(confusion.shape[0], UNASSIGNED, dtype=np.int64)
    assignment[clusters] = classes
    return assignment


def match_covering(confusion: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Assign every cluster a class and every class at least one cluster, so that most pixels or voxels agree.

    The naming of SceneDINO for more clusters than classes. There it is an integer program. Its exact solution takes
    away from the majority assignment what it costs least to give each class a cluster of its own. Raises GridError
    where there are fewer clusters than classes. `confusion`: [clusters, classes], at least as many clusters as classes.
    """
    if confusion.shape[0] < confusion.shape[1]:
        what = f"{confusion.shape[0]} clusters for {confusion.shape[1]} classes"
        raise GridError(what, where="confusion", cure="Match them one to one")
    counts = confusion.astype(np.int64)
    regret = counts - counts.max(axis=1, keepdims=True)  # at most 0
    clusters, classes = _linear_sum_assignment(regret)
    assignment = np.asarray(confusion.argmax(axis=1), dtype=np.int64)
    assignment[clusters] = classes
    return assignment


def match_cityscapes(confusion: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Assign clusters Cityscapes' classes, each at most once, and by them the common classes that these count as.

    So SceneDINO's 19 clusters are named. Two of them may be buildings (one stands for the walls), two other vehicles
    (buses, trains). Sky and rider count as empty: whoever would be one of them is `UNASSIGNED`. `confusion`: [clusters,
    common classes without "empty"].
    """
    found = CITYSCAPES_TO_COMMON.table[: len(CITYSCAPES_CLASSES)].astype(np.int64)
    columns = found[found != EMPTY] - 1
    named = match_one_to_one(confusion[:, columns])
    return np.where(named == UNASSIGNED, UNASSIGNED, columns[named])


def match_occupied(confusion: NDArray[np.integer[Any]], match: Match = match_one_to_one) -> NDArray[np.int64]:
    """Name the clusters of voxels by what is occupied in prediction and truth; empty stays empty.

    There is far more free space than anything else: with it, a cluster that spreads a little beyond surfaces would be
    called empty. Returns int64 [1 + clusters]. `confusion`: [1 + clusters, classes]; row and column 0 are empty;
    `match`: how the other rows are matched with the other columns.
    """
    named = match(confusion[1:, 1:])
    return np.concatenate([[0], np.where(named == UNASSIGNED, UNASSIGNED, named + 1)]).astype(np.int64)


def _linear_sum_assignment(benefit: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from scipy.optimize import linear_sum_assignment  # training and tests have SciPy, a robot need not

    rows, columns = linear_sum_assignment(benefit, maximize=True)
    return np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)
