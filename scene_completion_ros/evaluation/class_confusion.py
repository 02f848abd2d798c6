"""Confusion of predicted labels with true classes, and the intersection over union that follows from it.

Every confusion matrix here has a row for each predicted label and a column for each true class. Predicted labels may be
clusters without a name; `renamed` gives them one afterwards, exactly as if the predictions themselves were renamed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError

IGNORED = (-1, 255)  # truth that does not count, of label images and of voxels

UNASSIGNED = -1  # class of a cluster that got none


def class_confusion(
    predicted: NDArray[np.integer[Any]],  # labels [...] in 0 .. labels - 1, where the truth counts; anything elsewhere
    truth: NDArray[np.integer[Any]],  # classes [...] in 0 .. classes - 1; -1 and 255 do not count
    labels: int,
    classes: int,
    counted: NDArray[np.bool_] | None = None,  # bool [...], what else does not count; all by default
) -> NDArray[np.int64]:
    """Count pixels or voxels by predicted label and true class. Returns int64 [labels, classes].

    Raises GridError where the shapes differ, or a label or class that counts is out of range.
    """
    if predicted.shape != truth.shape or (counted is not None and counted.shape != truth.shape):
        shapes = [array.shape for array in (predicted, truth, counted) if array is not None]
        raise GridError(f"shapes {shapes}", where="labels", cure="Give predictions, truth and mask of one shape")
    keep = (truth != IGNORED[0]) & (truth != IGNORED[1])
    if counted is not None:
        keep &= counted
    found, true = predicted[keep].astype(np.int64), truth[keep].astype(np.int64)
    for name, values, limit in (("predicted", found, labels), ("true", true, classes)):
        if values.size and (values.min() < 0 or values.max() >= limit):
            wrong = np.unique(values[(values < 0) | (values >= limit)])[:8].tolist()
            raise GridError(f"{name} {wrong}, outside 0..{limit - 1}", where="labels", cure="Map them to classes first")
    counts = np.bincount(found * classes + true, minlength=labels * classes)
    return counts.reshape(labels, classes).astype(np.int64)


def renamed(
    confusion: NDArray[np.int64], class_of_label: NDArray[np.integer[Any]], unassigned: int | None = None
) -> NDArray[np.int64]:
    """Give the predicted labels of a confusion matrix the names of classes.

    Rows of one class add up, so that row and column i are both class i. So no table made from the result can show a
    class under another one's name. Returns int64 [classes + 1, classes]; the last row holds predictions of no class.
    Raises GridError where there is not one class for each label, or one is out of range.

    `confusion`: int64 [labels, classes]; `class_of_label`: [labels], classes or `UNASSIGNED`; `unassigned`: class that
    labels without one count as; by default they are no class's, and wrong everywhere.
    """
    labels, classes = confusion.shape
    names = np.asarray(class_of_label, dtype=np.int64)
    if names.shape != (labels,) or (names < UNASSIGNED).any() or (names >= classes).any():
        what = f"{names.tolist()} for {labels} labels and {classes} classes"
        cure = f"Give every label a class in 0..{classes - 1} or {UNASSIGNED}"
        raise GridError(what, where="class_of_label", cure=cure)
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
