"""Probes of features of points on labelled scenes: a linear layer, and nearest neighbours.

One linear layer on standardised inputs, all levels side by side, AdamW and a cosine schedule (MSM, T15), cross-entropy,
on points that are drawn once instead of crops. The probed features stay as they are. In the released code of CUA-O3D
the running statistics of the "frozen" network drift while its probe is trained (S6). All methods see the same points.

What MSM's nearest neighbours are (tables 1, 7 and 8) is not known: here they are by cosine in a bank with as many
features of each class, the nearest one, or 20 that vote with exp(cosine / 0.07) as in DINO. Few labels are drawn by
chance; ScanNet's own lists are not read.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import Metric
from scene_completion_ros.evaluation.semantics import ZERO_SHOT, Part, ZeroShotMetric, unit_vectors
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.arrays import Floats, Ints, Mask, Reals
from scene_completion_training.masked_scene.data import point_features
from scene_completion_training.points.scene import UNLABELLED, PointScene

LEARNING_RATE = WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
BATCH = 2048
NEIGHBOURS = (1, 20)
TEMPERATURE = 0.07
BANK = 500  # features of a class in a bank, at most
_AT_ONCE = 4096
Levels: TypeAlias = tuple[Reals, ...]  # of each level [n, D_l]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Classes by a linear layer."""

    weight: Floats  # float32 [K, E]
    bias: Floats  # float32 [K]

    def logits(self, values: Floats) -> Floats:
        """Logits [N, K] of what is probed [N, E]."""
        return np.asarray(values @ self.weight.T + self.bias, np.float32)

    def labels(self, values: Floats) -> Ints:
        """The class [N] of the largest logit, of what is probed [N, E]."""
        return np.asarray(self.logits(values).argmax(axis=1), np.int64)

    def save(self, file: Path) -> None:
        """Writes it as safetensors."""
        write_whole(file, tensor_bytes({"weight": self.weight, "bias": self.bias}))

    @staticmethod
    def read(file: Path) -> "LinearProbe":
        """Reads what `save` wrote; a `ConfigurationError` if it is nothing such."""
        cure = "Make it with `scene-completion evaluate segmentation --probe-on`"
        found = read_tensors(file, ConfigurationError, cure=cure)
        weight, bias = (found.get(name, np.zeros(0)).astype(np.float32) for name in ("weight", "bias"))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ConfigurationError("holds no linear probe", where=str(file), cure=cure)
        return LinearProbe(weight, bias)


def fit_linear_probe(values: Floats, classes: Ints, count: int, *, seed: int, steps: int) -> LinearProbe:
    """Fits a probe to values [N, E] with classes [N] of `count`; a ConfigurationError if they are of fewer than two."""
    if len(np.unique(classes)) < 2:
        cure = "Name more recordings with ground truth voxels to train on"
        raise ConfigurationError(f"{len(classes)} voxels of fewer than two classes", where="linear probe", cure=cure)
    mean, scale = values.mean(axis=0), values.std(axis=0) + np.float32(1e-6)
    inputs, targets = torch.from_numpy((values - mean) / scale), torch.from_numpy(classes)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(values.shape[1], count)
    nn.init.zeros_(layer.weight)  # convex: where it starts does not matter
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(layer(inputs[batch]), targets[batch]))
        optimizer.step()
        schedule.step()
    weight = layer.weight.detach().numpy() / scale
    return LinearProbe(weight, layer.bias.detach().numpy() - weight @ mean)


@dataclass(frozen=True, eq=False)
class ProbeAnswer:
    """What a probe says of the points of a scene, see `POINTS`; K where there is no feature."""

    predicted: Ints  # [N]
    true: Ints  # [N]

    @property
    def parts(self) -> dict[Part, Mask]:
        """All of them."""
        return {(0.0, ALL): np.ones(len(self.true), np.bool_)}


class PointMethod(NamedTuple):
    """What gives features of points."""

    name: str
    features: Callable[[PointScene, Ints | None], Levels]  # at rows of a scene, None for all


def colour_alone(scene: PointScene, rows: Ints | None) -> Levels:
    """Colours in -1..1 as features of one level, [n, 3]; grey where a scene has none."""
    return (point_features(len(scene), scene.colours, None)[slice(None) if rows is None else rows, :3],)


@dataclass(frozen=True, eq=False)
class NearestProbe:
    """Classes by the nearest features of a bank."""

    bank: Floats  # [M, E], of unit length
    classes: Ints  # [M]
    count: int  # of all classes
    neighbours: int

    def labels(self, values: Floats) -> Ints:
        """The class [N] that gets most votes, of what is probed [N, E]."""
        bank, classes = torch.from_numpy(self.bank), torch.from_numpy(self.classes)
        found = [torch.zeros(0, dtype=torch.int64)]
        for block in torch.split(torch.from_numpy(unit_vectors(values)), _AT_ONCE):
            cosine, row = (block @ bank.T).topk(min(self.neighbours, len(bank)), dim=1)
            votes = torch.zeros(len(block), self.count).scatter_add(1, classes[row], (cosine / TEMPERATURE).exp())
            found.append(votes.argmax(dim=1))
        return torch.cat(found).numpy()


def fit_nearest(values: Floats, classes: Ints, count: int, neighbours: int, *, seed: int) -> NearestProbe:
    """A bank of values [N, E] with classes [N] of `count`: at most `BANK` of each class, by chance."""
    order = np.random.default_rng(seed).permutation(len(classes))
    rows = np.concatenate([order[classes[order] == number][:BANK] for number in range(count)])
    return NearestProbe(unit_vectors(values[rows]), classes[rows], count, neighbours)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled points of several scenes with the features of one method."""

    levels: Levels  # half precision [N, D_l]
    classes: Ints  # [N]
    offsets: Floats  # [N, 3], to the middle of the thing that a point is of, metres; NaN for none
    scene: Ints  # [N], number of the scene
    rank: Ints  # [N], place among the points that were drawn of the scene, in the order of the draw

    def values(self, levels: Sequence[int], rows: Mask | slice = slice(None)) -> Floats:
        """Features of some levels side by side, [n, E]."""
        return side_by_side(tuple(level[rows] for level in self.levels), levels)


def side_by_side(levels: Levels, chosen: Sequence[int]) -> Floats:
    """Some of the levels as one feature, [n, E]."""
    return np.concatenate([np.asarray(levels[number], np.float32) for number in chosen], axis=1)


def drawn_rows(scene: PointScene, most: int, seed: int) -> Ints:
    """At most so many labelled points, drawn by chance; a `SequenceError` if the scene has no labels."""
    if scene.label is None:
        raise SequenceError("has no labels", where=scene.name, cure="Name scenes with labels, and their --labels")
    labelled = np.flatnonzero(scene.label != UNLABELLED)
    return np.random.default_rng([seed, zlib.crc32(scene.name.encode())]).permutation(labelled)[:most]


def labelled_points(method: PointMethod, scenes: Mapping[str, PointScene], most: int, seed: int) -> Labelled:
    """At most so many points of each scene, with features; errors as of `drawn_rows`."""
    levels, columns = list[Levels](), list[tuple[NDArray[Any], ...]]()
    for number, scene in enumerate(scenes.values()):
        rows = drawn_rows(scene, most, seed)
        assert scene.label is not None
        levels.append(tuple(level.astype(np.float16) for level in method.features(scene, rows)))
        columns.append((scene.label[rows], offsets(scene)[rows], np.full(len(rows), number), np.arange(len(rows))))
    side = tuple(np.concatenate(level) for level in zip(*levels, strict=True))
    classes, moves, numbers, ranks = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Labelled(side, classes, moves, numbers, ranks)


def offsets(scene: PointScene) -> Floats:
    """From each point to the middle of the points of its thing, [N, 3], metres; NaN where it is of none."""
    found = np.full((len(scene), 3), np.nan, np.float32)
    if scene.instance is not None:
        of_things = np.flatnonzero(scene.instance != UNLABELLED)
        _, number, count = np.unique(scene.instance[of_things], return_inverse=True, return_counts=True)
        sums = [np.bincount(number, weights=axis) for axis in scene.points[of_things].T]
        middle = np.stack(sums, axis=1) / count[:, None] if len(count) else np.zeros((0, 3))
        found[of_things] = middle[number] - scene.points[of_things]
    return found


@dataclass(frozen=True, eq=False)
class PointProbe:
    """A probe of one method, of some of its levels."""

    name: str
    levels: tuple[int, ...]
    probe: LinearProbe | NearestProbe
    class_names: tuple[str, ...]


POINTS = Metric(
    "points",
    "Classes of points, in percent; scenes stand under `frames`. `of all` divides by the number of all classes, as "
    "CUA-O3D does. As released, points without a feature leave the count. Probes of linear heads have the same "
    "hypotheses as that of the trunk.",
    ZERO_SHOT.columns,
    lambda method: ZeroShotMetric(method.class_names),
    classes="class_iou",
)


def fit_probes(
    name: str,
    labelled: Labelled,
    class_names: tuple[str, ...],
    *,
    each_level: bool,  # also of each level alone, and of all but it
    shares: Sequence[float],  # also with so many percent of the scenes
    points: Sequence[int],  # also with so many points of each scene
    seed: int,
    steps: int,
) -> Iterator[PointProbe]:
    """Probes of all levels and what else is asked; a ConfigurationError if fewer than two classes have labels."""
    every = tuple(range(len(labelled.levels)))
    all_rows = np.ones(len(labelled.classes), np.bool_)
    cases = [("", every, all_rows)]
    if each_level and len(every) > 1:
        for number in every:
            others = tuple(other for other in every if other != number)
            cases += [(f", level {number + 1} alone", (number,), all_rows)]
            cases += [(f", all but level {number + 1}", others, all_rows)]
    order = np.random.default_rng(seed).permutation(int(labelled.scene.max(initial=-1)) + 1)
    for share in shares:
        some = order[: max(1, round(share / 100.0 * len(order)))]
        cases.append((f", {share:g} % of the scenes", every, np.isin(labelled.scene, some)))
    cases += [(f", {most} points a scene", every, labelled.rank < most) for most in points]
    for what, levels, rows in cases:
        values, classes, count = labelled.values(levels, rows), labelled.classes[rows], len(class_names)
        if len(np.unique(classes)) < 2:
            cure = "Name more scenes, or take more labels"
            raise ConfigurationError("labels of fewer than two classes", where=f"{name}{what}", cure=cure)
        linear = fit_linear_probe(values, classes, count, seed=seed, steps=steps)
        yield PointProbe(f"{name}, linear{what}", levels, linear, class_names)
        for neighbours in NEIGHBOURS:
            nearest = fit_nearest(values, classes, count, neighbours, seed=seed)
            yield PointProbe(f"{name}, {neighbours} nearest{what}", levels, nearest, class_names)
