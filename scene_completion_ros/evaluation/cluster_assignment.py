"""Names for clusters: which class a cluster stands for, from how often they fall together.

An assignment is int64 [clusters]: a class for each cluster, or `UNASSIGNED`. It may be fitted on one set and applied to
another, with `renamed` of `class_confusion`. Fitting it on the scored set itself, as most published figures do, tells a
method what it could not know.

The more clusters, the more a many-to-one assignment such as `match_covering` flatters: tables have `match_one_to_one`,
and a robot's classes cover.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.class_confusion import UNASSIGNED
from scene_completion_ros.evaluation.semantic_classes import CITYSCAPES_CLASSES, CITYSCAPES_TO_COMMON, EMPTY

Match: TypeAlias = Callable[[NDArray[np.integer[Any]]], NDArray[np.int64]]


def match_one_to_one(confusion: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Assign each class to at most one cluster so that most pixels or voxels agree (Hungarian method).

    Returns int64 [clusters]. With more clusters than classes the leftover ones are `UNASSIGNED`; with fewer, some
    classes have no cluster. A cluster may get a class it never falls together with, where only such ones are left.
    `confusion`: [clusters, classes], see `class_confusion`.
    """
    _check(confusion)
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
    _check(confusion)
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
    called empty. Returns int64 [1 + clusters].

    `confusion`: [1 + clusters, classes]; row and column 0 are empty; `match`: how the other rows are matched with the
    other columns.
    """
    named = match(confusion[1:, 1:])
    return np.concatenate([[0], np.where(named == UNASSIGNED, UNASSIGNED, named + 1)]).astype(np.int64)


def _linear_sum_assignment(benefit: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from scipy.optimize import linear_sum_assignment  # training and tests have SciPy, a robot need not

    rows, columns = linear_sum_assignment(benefit, maximize=True)
    return np.asarray(rows, dtype=np.int64), np.asarray(columns, dtype=np.int64)


def _check(confusion: NDArray[np.integer[Any]]) -> None:
    if confusion.ndim != 2 or 0 in confusion.shape or (confusion < 0).any():
        what = f"no counts [clusters, classes]: shape {confusion.shape}"
        raise GridError(what, where="confusion", cure="Count some pixels first")
