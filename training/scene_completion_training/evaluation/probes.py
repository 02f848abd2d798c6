"""Probes of features of points on labelled scenes: a linear layer, and nearest neighbours.

One linear layer on standardised inputs, all levels side by side, AdamW and a cosine schedule (MSM, T15), cross-entropy,
on points that are drawn once instead of crops. The probed features stay as they are. In the released code of CUA-O3D
the running statistics of the "frozen" network drift while its probe is trained (S6). All methods see the same points.

What MSM's nearest neighbours are (tables 1, 7 and 8) is not known: here they are by cosine in a bank with as many
features of each class, the nearest one, or 20 that vote with exp(cosine / 0.07) as in DINO. Few labels are drawn by
chance; ScanNet's own lists are not read.

Classes of points, as CUA-O3D is scored: zero-shot by lifted features, the network and both, and linear probes.

Scores are cosines with the embedding of each class; those of a network are summed over several voxelisations at random
offsets. CUA-O3D takes products with features of any length, and averages those of pixels and network as they are (S4):
here both are brought to length one before. Probes leave the network as it is, running statistics included (S6).
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import Metric
from scene_completion_ros.evaluation.semantics import (
    ZERO_SHOT,
    Part,
    ZeroShotMetric,
    best_classes,
    cosines,
    unit_vectors,
)
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.arrays import Floats, Ints, Mask, Random, Reals
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scenes import point_features
from scene_completion_training.networks.agglomerated_field import AgglomeratedPoints
from scene_completion_training.points.data import LiftedScene, voxel_inputs
from scene_completion_training.points.scene import UNLABELLED, PointScene
from scene_completion_training.points.voxels import VoxelisedPoints, voxelised

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


REPEATS = 5
PROBE_STEPS = 1000
TRUNK, CONCATENATION, AVERAGE = "trunk", "concatenation", "average of the heads' logits"
Scores = Floats  # [N, K]
Say = Callable[[Tensor], Scores]  # scores of voxels by their features of the trunk


class PointModel:
    """The network of a checkpoint of stage `point_agglomeration`, in eval mode; a BundleError where it is no such."""

    def __init__(self, file: Path, device: str = "cpu") -> None:
        stored = Checkpoint.read(file)
        try:
            self.configuration = stored.configuration
            self.network = AgglomeratedPoints.of(self.configuration)
            self.network.load_state_dict(dict(stored.state))
            data = self.configuration["data"]
            self._voxel_size, self._input = float(data["voxel_size"]), data["input"]
        except (KeyError, TypeError, RuntimeError) as error:
            what = f"no network of points in it: its stage is {stored.stage} ({str(error)[:200]})"
            cure = "Name the checkpoint of a training with stage `point_agglomeration`"
            raise BundleError(what, where=str(file), cure=cure) from error
        self.network.to(device).eval().requires_grad_(False)
        # What each teacher was, plain values by name.
        self.teachers = {teacher["name"]: teacher for teacher in self.configuration["teachers"]}
        self._device = device

    @torch.inference_mode()
    def trunk(self, scene: PointScene, generator: Random) -> tuple[VoxelisedPoints, Tensor]:
        """Voxels of a scene at a random offset, and their features [V, 96] of the trunk."""
        found = voxelised(scene.points, self._voxel_size, generator)
        colours = np.zeros_like(scene.points) if scene.colours is None else scene.colours
        index = functional.pad(torch.from_numpy(found.index), (1, 0)).to(self._device)  # all of scene 0
        inputs = torch.from_numpy(voxel_inputs(colours, found.chosen, self._input)).to(self._device)
        features: Tensor = self.network(index, inputs)
        return found, features

    def head(self, teacher: str, trunk: Tensor) -> Floats:
        """A teacher's features [V, D], of those of the trunk [V, 96]."""
        return self.network.heads.of(teacher, trunk).cpu().numpy()

    def by_words(self, teacher: str, rows: Floats) -> Say:
        """Cosines of its features with embeddings [K, D]; a ConfigurationError if these have another dimension."""
        if rows.shape[1] != self.teachers[teacher]["dim"]:
            what = f"embeddings of {rows.shape[1]} numbers, features of {self.teachers[teacher]['dim']}"
            cure = "Name the text encoder, or its bank, that the teacher is aligned to"
            raise ConfigurationError(what, where=f"teacher {teacher}", cure=cure)
        return lambda trunk: cosines(self.head(teacher, trunk), rows)


def lifted_scores(kept: LiftedScene, teacher: str, rows: Floats) -> Scores:
    """Cosines [N, K] of the lifted features of points with embeddings [K, D]; -inf where no view sees a point."""
    return cosines(kept.at(teacher, np.arange(len(kept.points))), rows)


def ensembled(network: Scores, lifted: Scores) -> dict[str, Scores]:
    """Scores [N, K] of network and pixels together, each by cosines of its own; the network alone where no view sees.

    "mean": of the mean of both features, each of length one (CUA-O3D has those of any length). "max": of the feature
    whose best class is nearer, point by point (OpenScene).
    """
    known = ~np.isneginf(lifted).all(axis=1, keepdims=True)
    nearer = network.max(axis=1, keepdims=True) >= lifted.max(axis=1, keepdims=True)
    mean = np.where(known, 0.5 * (network + np.where(known, lifted, 0.0)), network)
    return {"mean": np.asarray(mean, np.float32), "max": np.where(nearer, network, lifted)}


def point_labels(
    model: PointModel,
    scene: PointScene,
    says: Mapping[str, Say],
    lifted: Scores | None = None,  # scores by the features of pixels [N, K], -inf where no view sees a point
    words: str = "",  # which of those that say something goes into the ensembles
    repeats: int = REPEATS,
) -> dict[str, Ints]:
    """Classes of points [N] by each that says something of them, K for none."""
    total: dict[str, Scores] = {}
    generator = np.random.default_rng(0)  # the same voxelisations for every model
    for _ in range(repeats):
        found, trunk = model.trunk(scene, generator)
        scores = {name: say(trunk)[found.voxel] for name, say in says.items()}
        if lifted is not None:
            both = ensembled(scores[words], lifted)
            scores |= {f"2D and 3D, {rule}": of_both for rule, of_both in both.items()}
        for name, of_points in scores.items():
            total[name] = total[name] + of_points if name in total else of_points
    if lifted is not None:
        total["2D, lifted"] = lifted
    return {name: best_classes(of_points) for name, of_points in total.items()}


def probed_spaces(model: PointModel, trunk: Tensor) -> dict[str, Floats]:
    """What linear probes look at, [V, E] by name: the trunk, each head, and all heads side by side.

    Linear heads say no more than the trunk does: all these probes choose from the same classes of functions, and differ
    by how fast they learn (S5).
    """
    heads = {f"head {teacher}": model.head(teacher, trunk) for teacher in model.teachers}
    return {TRUNK: trunk.cpu().numpy(), **heads, CONCATENATION: np.concatenate(list(heads.values()), axis=1)}


def fit_point_probes(model: PointModel, scenes: Iterable[PointScene], most: int, *, seed: int = 0) -> dict[str, Say]:
    """Linear probes of each space of a network, and of the average over its heads, that say something of voxels.

    Raises ConfigurationError: scenes have no labels, or those of several lists. `most`: labelled points of a scene, at
    most.
    """
    values: dict[str, list[Floats]] = {}
    labels, lists = [], set()
    for number, scene in enumerate(scenes):
        generator = np.random.default_rng((seed, number))
        rows = generator.permutation(np.flatnonzero(true_classes(scene) >= 0))[:most]
        found, trunk = model.trunk(scene, generator)
        for name, space in probed_spaces(model, trunk[found.voxel[rows]]).items():
            values.setdefault(name, []).append(space)
        labels.append(true_classes(scene)[rows])
        lists.add(scene.classes)
    if len(lists) != 1:
        raise ConfigurationError(f"{len(lists)} lists of classes", where="probes", cure="Name scenes of one data set")
    count, known = len(lists.pop()), np.concatenate(labels)
    fit = partial(fit_linear_probe, classes=known, count=count, seed=seed, steps=PROBE_STEPS)
    probes = {name: fit(np.concatenate(found)) for name, found in values.items()}
    heads = [name for name in probes if name not in (TRUNK, CONCATENATION)]

    def average(trunk: Tensor) -> Scores:
        spaces = probed_spaces(model, trunk)
        return np.asarray(np.mean([probes[name].logits(spaces[name]) for name in heads], axis=0), np.float32)

    def by(name: str, probe: LinearProbe) -> Say:
        return lambda trunk: probe.logits(probed_spaces(model, trunk)[name])

    return {**{f"probe, {name}": by(name, probe) for name, probe in probes.items()}, f"probe, {AVERAGE}": average}


def true_classes(scene: PointScene) -> Ints:
    """Classes of points [N], -1 where nobody knows; a `ConfigurationError` where the scene has none."""
    if scene.label is None or not scene.classes:
        cure = "Name scenes with labels, and with --labels what they are called"
        raise ConfigurationError("has no labels", where=f"scene {scene.name}", cure=cure)
    return scene.label


@dataclass(frozen=True)
class ScoredMethod:
    """What gives classes, for tables."""

    name: str
    class_names: tuple[str, ...]
