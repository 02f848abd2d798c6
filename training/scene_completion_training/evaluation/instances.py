"""Things found by off-the-shelf features, and which of them a sentence means.

Points vote for the middle of their thing: a linear layer gives the class of a point, another one that place; both
read frozen features. Points of one class that come near each other when they are moved there are a thing (as in
PointGroup; Jiang et al., CVPR 2020). It is scored by the average precision of the ScanNet benchmark.

Sentences are grounded as in ScanRefer (Chen et al., ECCV 2020). Things are proposed, true or found ones. A layer on the
features of each (its own, its box, and those of the things near it: what relations are about) and a layer on the
embedding of the sentence meet in a product; the largest one answers.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import Metric, Row, Tally, columns
from scene_completion_ros.untrusted_files import read_json
from scene_completion_training.arrays import Doubles, Floats, Ints, Mask, Reals
from scene_completion_training.evaluation.probes import Labelled, Levels, LinearProbe, fit_linear_probe, side_by_side
from scene_completion_training.points.opening import Scenes
from scene_completion_training.points.scene import UNLABELLED, PointScene
from scene_completion_training.points.voxels import distinct

REACH = 0.1  # metres within which moved points belong together
# Points of a thing that is found, and of a true one that counts; the latter is the benchmark's.
LEAST_FOUND, LEAST_TRUE = 50, 100
OVERLAPS = (0.25, 0.5)
STUFF = ("wall", "floor")  # classes that are no things
_RIDGE = 1e-3  # of the variance of a feature
NEAR = 1.0  # metres over which the features of other things fade
# Channels in which both meet, which is a choice of this project; AdamW and epochs as published (MSM, T17).
WIDTH, LEARNING_RATE, WEIGHT_DECAY, EPOCHS = 128, 5e-4, 1e-5, 10
_MOST_BYTES = 1 << 28
_CURE = "Name a file in the layout of ScanRefer: a list of objects with scene_id, object_id and description"
Encoder = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing that was found, or a true one."""

    label: int
    score: float
    rows: Ints  # of its points, each once


def without_stuff(scenes: Scenes) -> Scenes:
    """Scenes in which walls and floors are no things, though files of ScanNet number them; S3DIS scores all classes."""
    if scenes.source == "S3DIS":
        return scenes
    readers = {name: partial(_unnumbered, read) for name, read in scenes.readers.items()}
    return dataclasses.replace(scenes, readers=readers)


def _unnumbered(read: Callable[[], PointScene]) -> PointScene:
    scene = read()
    if scene.instance is None or scene.label is None:
        return scene
    names = [number for number, name in enumerate(scene.classes) if name in STUFF]
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

    def things(self, points: Floats, levels: Levels) -> list[Thing]:
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


def fit_instances(name: str, labelled: Labelled) -> InstanceHead:
    """Fits classes as a linear probe, offsets by least squares; a ConfigurationError where no point is of a thing."""
    from sklearn.linear_model import Ridge

    values = labelled.values(range(len(labelled.levels)))
    rows = np.isfinite(labelled.offsets).all(axis=1)
    if not rows.any():
        raise ConfigurationError("no point is of a thing", where="--probe-on", cure="Name scenes with instances")
    inputs, targets = values[rows].astype(np.float64), labelled.offsets[rows].astype(np.float64)
    fitted = Ridge(len(inputs) * (_RIDGE * inputs.var(axis=0).mean() + 1e-12)).fit(inputs, targets)
    middle = LinearProbe(fitted.coef_.astype(np.float32), fitted.intercept_.astype(np.float32))
    classes = fit_linear_probe(values, labelled.classes, len(labelled.class_names))
    return InstanceHead(name, labelled.class_names, classes, middle, tuple(np.unique(labelled.classes[rows]).tolist()))


def grouped(points: Reals, reach: float = REACH) -> Ints:
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
    columns("ap25: AP25, ap50: AP50"),
    lambda method: InstanceTally(method.class_names),
    classes="class_ap50",
)


def read_phrases(file: Path) -> dict[str, list[tuple[str, int]]]:
    """Sentences in ScanRefer's layout by scene, each with the number of its thing; a SequenceError if it is none."""
    found: dict[str, list[tuple[str, int]]] = {}
    for number, entry in enumerate(read_json(file, SequenceError, cure=_CURE, kind=list, most_bytes=_MOST_BYTES)):
        match entry:
            case {"scene_id": str(scene), "object_id": str() | int() as thing, "description": str(text)} if (
                str(thing).isdecimal() and text.strip()
            ):
                found.setdefault(scene, []).append((text, int(thing)))
            case _:
                raise SequenceError(f"entry {number} is no sentence about a thing", where=str(file), cure=_CURE)
    return found


def made_phrases(scene: PointScene) -> list[tuple[str, int]]:
    """Sentences by rule about the things that they tell from all others, each with the number of its thing.

    The only thing of a class is called by the class ("the table"), any other one also by the class of the thing that is
    nearest to it among those of other classes ("the chair next to the table").
    """
    true = true_things(scene)
    numbers = [number for number, thing in true.items() if thing.label >= 0 and len(thing.rows) >= LEAST_TRUE]
    labels = np.array([true[number].label for number in numbers], np.int64)
    boxes = _boxes(scene.points, [true[number] for number in numbers])
    middle = (boxes[:, :3] + boxes[:, 3:]) / 2.0
    away = np.linalg.norm(middle[:, None] - middle, axis=-1)
    away[labels[:, None] == labels] = np.inf
    texts = []
    for row, label in enumerate(labels):
        near = scene.classes[labels[away[row].argmin()]]
        alone = (labels == label).sum() == 1 or np.isinf(away[row]).all()
        texts.append(f"the {scene.classes[label]}" + ("" if alone else f" next to the {near}"))
    return [(text, number) for text, number in zip(texts, numbers, strict=True) if texts.count(text) == 1]


def box_overlap(one: Reals, other: Reals) -> Doubles:
    """Intersection over union of boxes [..., 6], lower corner and upper; 0 where a box has no volume."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    shared = np.minimum(one[..., 3:], other[..., 3:]) - np.maximum(one[..., :3], other[..., :3])
    inside = np.clip(shared, 0.0, None).prod(axis=-1)
    union = (one[..., 3:] - one[..., :3]).prod(axis=-1) + (other[..., 3:] - other[..., :3]).prod(axis=-1) - inside
    return np.asarray(np.divide(inside, union, out=np.zeros_like(inside), where=union > 0.0))


@dataclass(frozen=True, eq=False)
class Asked:
    """Sentences about a scene, and the things that it offers."""

    boxes: Floats  # [P, 6] of the things on offer
    described: Floats  # [P, F], see `described`
    texts: tuple[str, ...]  # Q sentences
    true_boxes: Floats  # [Q, 6]
    unique: Mask  # [Q], whether the scene has one thing of the class that is meant


def asked(
    scene: PointScene, levels: Levels, phrases: Sequence[tuple[str, int]], finder: InstanceHead | None = None
) -> Asked:
    """Questions about a scene, of sentences of `read_phrases`.

    Raises SequenceError where the scene has not all things that the sentences are about. `levels`: features of all
    points; `finder`: finds the things on offer; by default the true ones are.
    """
    true, whole = true_things(scene), side_by_side(levels, range(len(levels)))
    if missing := sorted({thing for _, thing in phrases} - true.keys()):
        what, cure = f"has no thing {missing[0]}, which a sentence is about", "Name the scenes of the sentences"
        raise SequenceError(what, where=scene.name, cure=cure)
    offered = list(true.values()) if finder is None else finder.things(scene.points, levels)
    boxes = _boxes(scene.points, offered)
    true_boxes = _boxes(scene.points, [true[thing] for _, thing in phrases])
    features = np.array([whole[thing.rows].mean(axis=0) for thing in offered], np.float32)
    labels = [thing.label for thing in true.values()]
    unique = np.array([labels.count(true[thing].label) == 1 for _, thing in phrases], np.bool_)
    about = described(boxes, features) if offered else features
    return Asked(boxes, about, tuple(text for text, _ in phrases), true_boxes, unique)


def _boxes(points: Floats, things: Sequence[Thing]) -> Floats:
    corners = [(points[thing.rows].min(axis=0), points[thing.rows].max(axis=0)) for thing in things]
    return np.array(corners, np.float32).reshape(-1, 6)


def described(boxes: Floats, features: Floats) -> Floats:
    """What is known of things with boxes [P, 6] and features [P, E]: [P, 2 E + 6].

    Their features, those of the others by nearness, exp(-distance / `NEAR`), the middle of the box from that of all
    boxes and its size, metres.
    """
    middle, size = (boxes[:, :3] + boxes[:, 3:]) / 2.0, boxes[:, 3:] - boxes[:, :3]
    near = np.exp(-np.linalg.norm(middle[:, None] - middle, axis=-1) / NEAR) * (1.0 - np.eye(len(boxes)))
    around = near @ features / np.maximum(near.sum(axis=1, keepdims=True), 1e-6)
    return np.concatenate([features, around, middle - middle.mean(axis=0), size], axis=1).astype(np.float32)


class GroundingHead(nn.Module):
    """Chooses the thing on offer that a sentence means."""

    def __init__(self, name: str, things: Tensor, text_size: int) -> None:
        super().__init__()
        self.name = name
        self.mean, self.scale = things.mean(dim=0), things.std(dim=0, correction=0) + 1e-6
        self.thing, self.text = nn.Linear(things.shape[1], WIDTH), nn.Linear(text_size, WIDTH)

    def forward(self, things: Tensor, texts: Tensor) -> Tensor:
        """Logits [Q, P] of things on offer [P, F] for embeddings of sentences [Q, T]."""
        answer: Tensor = self.text(texts) @ self.thing((things - self.mean) / self.scale).T / WIDTH**0.5
        return answer

    def answers(self, scene: Asked, encode: Encoder) -> "Grounded":
        """What it takes the sentences about a scene to mean; nothing is on offer where nothing was found."""
        if not len(scene.boxes):
            return Grounded(np.zeros(len(scene.texts)), scene.unique)
        with torch.no_grad():
            logits: Tensor = self(torch.from_numpy(scene.described), encode(scene.texts))
        return Grounded(box_overlap(scene.boxes[logits.argmax(dim=1).numpy()], scene.true_boxes), scene.unique)


def fit_grounding(name: str, scenes: Sequence[Asked], encode: Encoder) -> GroundingHead:
    """Fits a head by cross-entropy with the thing whose box overlaps the true one most; or a ConfigurationError."""
    samples = []
    for scene in scenes:
        overlap = box_overlap(scene.true_boxes[:, None], scene.boxes) if len(scene.boxes) else np.zeros((1, 1))
        if (there := overlap.max(axis=1) >= OVERLAPS[0]).any():  # what was not found teaches nothing
            meant = torch.from_numpy(overlap.argmax(axis=1)[there])
            samples.append((torch.from_numpy(scene.described), encode(scene.texts)[torch.from_numpy(there)], meant))
    if not samples:
        cure = "Name the sentences of these scenes, by their names and the numbers of their instances"
        raise ConfigurationError("no sentence is about a thing of --probe-on", where="--phrases", cure=cure)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = GroundingHead(name, torch.cat([things for things, _, _ in samples]), samples[0][1].shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for number in order.permutation(len(samples)).tolist():
            things, texts, meant = samples[number]
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(head(things, texts), meant))
            optimiser.step()
    return head.eval()


@dataclass(frozen=True, eq=False)
class Grounded:
    """Boxes that sentences were taken to mean, for `GROUNDING`."""

    overlap: Doubles  # [Q], with the true boxes
    unique: Mask  # [Q]


class GroundingTally(Tally):
    """Share of the sentences whose box overlaps the true one enough."""

    def __init__(self) -> None:
        self.answers: list[Grounded] = []

    def add(self, answer: Grounded) -> None:
        """Count the sentences about a scene."""
        self.answers.append(answer)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """Of sentences about the only thing of its class, about one of several, and of all."""
        overlap = np.concatenate([answer.overlap for answer in self.answers])
        unique = np.concatenate([answer.unique for answer in self.answers])
        for what, part in (("unique", unique), ("multiple", ~unique), ("overall", np.ones_like(unique))):
            shares = [(overlap[part] >= least).mean() if part.any() else float("nan") for least in OVERLAPS]
            named = {f"accuracy{100 * least:g}": float(share) for least, share in zip(OVERLAPS, shares, strict=True)}
            yield {"things": what, "sentences": int(part.sum()), **named}


GROUNDING = Metric(
    "grounding",
    "Share of sentences whose box overlaps the true one by at least 25 and 50 % (protocol of ScanRefer), in percent.",
    columns("accuracy25: at 25 %, accuracy50: at 50 %"),
    lambda _: GroundingTally(),
    by=("things", "sentences"),
)
