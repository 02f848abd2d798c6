"""Things found by off-the-shelf features: points vote for the middle of their thing, and those that agree are grouped.

A linear layer says the class of a point, another one where the middle of its thing is; both read frozen features.
Points of one class that come near each other when they are moved there are a thing (as in PointGroup; Jiang et al.,
CVPR 2020). It is scored by the average precision of the ScanNet benchmark.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_training.evaluation.point_probe import Labelled, Levels, side_by_side
from scene_completion_training.evaluation.scene_probe import LinearProbe, fit_linear_probe
from scene_completion_training.masked_scene.views import distinct
from scene_completion_training.points.scene import UNLABELLED, PointScene

REACH = 0.1  # metres within which moved points belong together
# Points of a thing that is found, and of a true one that counts; the latter is the benchmark's.
LEAST_FOUND, LEAST_TRUE = 50, 100
OVERLAPS = (0.25, 0.5)
_RIDGE = 1e-3  # of the variance of a feature


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing that was found, or a true one."""

    label: int
    score: float
    rows: NDArray[np.int64]  # of its points, each once


def without_stuff(read: Callable[[], PointScene], stuff: Sequence[str]) -> PointScene:
    """A scene in which points of some classes are of no thing: files of ScanNet number walls and floors, too."""
    scene = read()
    if scene.instance is None or scene.label is None:
        return scene
    names = [number for number, name in enumerate(scene.classes) if name in stuff]
    return dataclasses.replace(scene, instance=np.where(np.isin(scene.label, names), UNLABELLED, scene.instance))


def true_things(scene: PointScene) -> dict[int, Thing]:
    """The true things of a scene by their number, each of the class of most of its points, or `UNLABELLED`."""
    if scene.instance is None or scene.label is None:
        return {}
    found = {}
    for number in np.unique(scene.instance[scene.instance != UNLABELLED]).tolist():
        rows = np.flatnonzero(scene.instance == number)
        known = np.bincount(scene.label[rows] + 1, minlength=1)[1:]
        found[number] = Thing(int(known.argmax()) if known.any() else UNLABELLED, 1.0, rows)
    return found


@dataclass(frozen=True, eq=False)
class InstanceHead:
    """Finds things by features."""

    name: str
    class_names: tuple[str, ...]
    classes: LinearProbe
    middle: LinearProbe  # gives the offset to the middle of the thing, metres
    countable: tuple[int, ...]  # classes of which there are things

    def things(self, points: NDArray[np.float32], levels: Levels) -> list[Thing]:
        """The things among points [N, 3] with features, the surest first."""
        values = side_by_side(levels, range(len(levels)))
        logits = self.classes.logits(values)
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        moved, label = points + self.middle.logits(values), logits.argmax(axis=1)
        found = []
        for number in self.countable:
            rows = np.flatnonzero(label == number)
            groups = grouped(moved[rows])
            for group in range(int(groups.max(initial=-1)) + 1):
                mine = rows[groups == group]
                if len(mine) >= LEAST_FOUND:
                    found.append(Thing(number, float(share[mine, number].mean()), mine))
        return sorted(found, key=lambda thing: -thing.score)


def fit_instances(
    name: str, labelled: Labelled, class_names: tuple[str, ...], *, seed: int, steps: int
) -> InstanceHead:
    """Fits both layers: the classes as a linear probe, the offsets by least squares.

    Raises ConfigurationError where no point is of a thing.
    """
    values = labelled.values(range(len(labelled.levels)))
    rows = np.isfinite(labelled.offsets).all(axis=1)
    if not rows.any():
        raise ConfigurationError("no point is of a thing", where="--train", cure="Name scenes with instances")
    inputs, targets = values[rows].astype(np.float64), labelled.offsets[rows].astype(np.float64)
    mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    inputs -= mean
    moments = inputs.T @ inputs / len(inputs)
    moments += (_RIDGE * np.trace(moments) / len(moments) + 1e-12) * np.eye(len(moments))
    weight = np.linalg.solve(moments, inputs.T @ (targets - target_mean) / len(inputs)).T
    middle = LinearProbe(weight.astype(np.float32), (target_mean - weight @ mean).astype(np.float32))
    classes = fit_linear_probe(values, labelled.classes, len(class_names), seed=seed, steps=steps)
    countable = tuple(np.unique(labelled.classes[rows]).tolist())
    return InstanceHead(name, class_names, classes, middle, countable)


def grouped(points: NDArray[np.floating], reach: float = REACH) -> NDArray[np.int64]:
    """Which group each of points [N, 3] is of, [N]: those that a chain of occupied cells of edge `reach` joins."""
    if not len(points):
        return np.zeros(0, np.int64)
    cells = np.floor(points / reach).astype(np.int64)
    cells -= cells.min(axis=0)
    first, cell = distinct(cells)
    pairs = cKDTree(cells[first]).query_pairs(1.0, p=np.inf, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs)), tuple(pairs.T)), (len(first), len(first)))
    return np.asarray(connected_components(graph, directed=False)[1][cell], np.int64)


@dataclass(frozen=True, eq=False)
class Instances:
    """What a method found in a scene, and what is true there, for `INSTANCES`."""

    found: Sequence[Thing]
    true: Sequence[Thing]
    count: int  # points of the scene


def matched(answer: Instances, label: int, overlap: float) -> tuple[list[float], list[bool], int]:
    """Scores of things found of a class, whether each is right, and how many true ones were missed (ScanNet).

    A true thing takes the surest one that overlaps it enough; others that do are wrong. What overlaps nothing enough
    is wrong, too, unless more than that share of it lies on points of no thing, or on true things that are too small.
    """
    found = [thing for thing in answer.found if thing.label == label]
    true = [thing for thing in answer.true if thing.label == label]
    number, ignored = np.full(answer.count, len(true)), np.ones(answer.count, np.bool_)
    for thing in answer.true:
        ignored[thing.rows] = thing.label == UNLABELLED or (thing.label == label and len(thing.rows) < LEAST_TRUE)
    for place, thing in enumerate(true):
        number[thing.rows] = place
    shared = np.array([np.bincount(number[one.rows], minlength=len(true) + 1)[:-1] for one in found])
    shared = shared.reshape(len(found), len(true))
    sizes = np.array([len(one.rows) for one in found])[:, None] + np.array([len(one.rows) for one in true], int)
    enough = shared / np.maximum(sizes - shared, 1) > overlap
    scores, right, taken, missed = list[float](), list[bool](), set[int](), 0
    for place, thing in enumerate(true):
        if len(thing.rows) < LEAST_TRUE:
            continue
        rivals = [one for one in np.flatnonzero(enough[:, place]).tolist() if one not in taken]
        taken.update(rivals[:1])
        scores += sorted((found[one].score for one in rivals), reverse=True)
        right += [rank == 0 for rank in range(len(rivals))]
        missed += not rivals
    for one, thing in enumerate(found):
        if not enough[one].any() and ignored[thing.rows].mean() <= overlap:
            scores.append(thing.score)
            right.append(False)
    return scores, right, missed


def instance_precision(scores: Sequence[float], right: Sequence[bool], missed: int) -> float:
    """Average precision over things found in all scenes, by the benchmark's sum over its curve.

    Each precision weighs half of the recall between its two neighbours on the curve, which ends at precision 1 and
    recall 0. NaN where nothing is true.
    """
    total = sum(right) + missed
    if not total or not scores:
        return 0.0 if total else float("nan")
    order = np.argsort(scores, kind="stable")
    hits = np.cumsum(np.asarray(right)[order])
    _, first = np.unique(np.asarray(scores)[order], return_index=True)
    kept = hits[-1] - np.where(first > 0, hits[first - 1], 0)
    recall = np.append(kept / total, 0.0)
    precision = np.append(kept / (len(scores) - first), 1.0)
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (around[:-2] - around[2:]) / 2.0)


class InstanceTally(Tally):
    """Average precision of each class at each overlap."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.matches: dict[tuple[int, float], tuple[list[float], list[bool], int]] = {}

    def add(self, answer: Instances) -> None:
        """Count a scene."""
        for label in range(len(self.names)):
            for overlap in OVERLAPS:
                before = self.matches.get((label, overlap), ([], [], 0))
                scores, right, missed = matched(answer, label, overlap)
                self.matches[label, overlap] = (before[0] + scores, before[1] + right, before[2] + missed)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """Mean over the classes that have true things, and each class at the largest overlap."""
        of_class: Mapping[float, list[float]] = {
            overlap: [instance_precision(*self.matches[label, overlap]) for label in range(len(self.names))]
            for overlap in OVERLAPS
        }
        means = {f"ap{100 * overlap:g}": _mean(found) for overlap, found in of_class.items()}
        yield {**means, "class_ap50": dict(zip(self.names, of_class[OVERLAPS[-1]], strict=True))}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


INSTANCES = Metric(
    "instances",
    "Average precision of things at an intersection over union of 25 and 50 % (protocol of ScanNet), in percent.",
    (Column("ap25", "AP25"), Column("ap50", "AP50")),
    lambda method: InstanceTally(method.class_names),
    classes="class_ap50",
)
