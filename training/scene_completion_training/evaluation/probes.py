"""Probes of features of points on labelled scenes: a linear layer, and nearest neighbours.

One linear layer on standardised inputs, all levels side by side, AdamW and a cosine schedule (MSM, T15), cross-entropy,
on points that are drawn once instead of crops. The probed features stay as they are. In the released code of CUA-O3D
the running statistics of the "frozen" network drift while its probe is trained (S6). All methods see the same points.

What MSM's nearest neighbours are (tables 1, 7 and 8) is not known: here they are by cosine in a bank with as many
features of each class, the nearest one, or 20 that vote with exp(cosine / 0.07) as in DINO. Few labels are drawn by
chance; ScanNet's own lists are not read.

Classes of points, as CUA-O3D is scored: zero-shot by lifted features, the network and both, and linear probes.

Scores are cosines with the embedding of each class, of features that are the mean over several voxelisations at random
offsets. CUA-O3D averages features of pixels and network as they are (S4), which is a row of its own: in the others both
are brought to length one before. Probes leave the network as it is, running statistics included (S6).
"""

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation import semantics
from scene_completion_ros.evaluation.metric import Metric, Row, Tally, columns
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.progress import print_lines
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.arrays import Floats, Ints, Mask, Reals
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.masked_scenes import point_features
from scene_completion_training.networks.agglomerated_field import AgglomeratedPoints
from scene_completion_training.networks.supervised_points import SupervisedPoints, network_inputs
from scene_completion_training.points.data import LiftingSettings, PixelTeacher, keep_lifted, voxel_inputs
from scene_completion_training.points.scene import UNLABELLED, PointScene, drawn_rows, true_classes
from scene_completion_training.points.voxels import OFFSETS, voxelised, voxels_of
from scene_completion_training.workers import accelerator

LEARNING_RATE = WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
BATCH = 2048
NEIGHBOURS = (1, 20)
TEMPERATURE = 0.07
BANK = 500  # features of a class in a bank, at most
PROBE_STEPS = 1000
SHARES, FEW_POINTS = (1, 5, 10, 20), (20, 50, 100, 200)  # few labels: percent of the scenes, points of each scene
REPEATS = 5  # voxelisations of a scene
_COMPARED, _AT_ONCE = 4096, 1 << 16  # points in memory at a time, with their cosines and with all their features
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


def fit_linear_probe(
    values: Floats, classes: Ints, count: int, *, steps: int | None = None, where: str = "linear probe"
) -> LinearProbe:
    """Fits a probe to values [N, E] with classes [N] of `count`; a ConfigurationError if they are of fewer than two."""
    if len(np.unique(classes)) < 2:
        what = f"{len(classes)} labels of {len(np.unique(classes))} of {count} classes, where a probe needs two classes"
        raise ConfigurationError(what, where=where, cure="Name more labelled scenes to train on")
    mean, scale = values.mean(axis=0), values.std(axis=0) + np.float32(1e-6)
    inputs, targets = torch.from_numpy((values - mean) / scale), torch.from_numpy(classes)
    generator, steps = torch.Generator().manual_seed(0), steps or PROBE_STEPS
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
    """Classes of the points of a scene by a probe, see `POINTS`; K where there is no feature."""

    predicted: Ints  # [N]
    true: Ints  # [N]

    @property
    def parts(self) -> dict[semantics.Part, Mask]:
        """All of them."""
        return {(0.0, ALL): np.ones(len(self.true), np.bool_)}


class PointMethod(NamedTuple):
    """A source of features of points."""

    name: str
    features: Callable[[PointScene, Ints | None], Levels]  # at rows of a scene, None for all


def colour_alone(scene: PointScene, rows: Ints | None) -> Levels:
    """Colours in -1..1 as features of one level, [n, 3]; grey where a scene has none."""
    return (point_features(len(scene), scene.colours, None)[slice(None) if rows is None else rows, :3],)


def lifted_features(store: Path, teacher: PixelTeacher) -> Callable[[PointScene, Ints | None], Levels]:
    """Features of pixels at points, one level [n, D], zeros where no view sees one; errors as of `keep_lifted`."""
    opened, settings = {teacher.name: teacher.open(accelerator().type)}, LiftingSettings(points=0)

    def features(scene: PointScene, rows: Ints | None) -> Levels:
        views = [[view.name, *view.world_from_camera.translation.tolist()] for view in scene.views]
        source = {"folder": scene.name, "points": zlib.crc32(scene.points.tobytes()), "views": views}
        lifted = keep_lifted(store, source, scene.name, lambda: scene, opened, settings)
        return (lifted.at(teacher.name, np.arange(len(scene)) if rows is None else rows),)

    return features


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
        for block in torch.split(torch.from_numpy(semantics.unit_vectors(values)), _COMPARED):
            cosine, row = (block @ bank.T).topk(min(self.neighbours, len(bank)), dim=1)
            votes = torch.zeros(len(block), self.count).scatter_add(1, classes[row], (cosine / TEMPERATURE).exp())
            found.append(votes.argmax(dim=1))
        return torch.cat(found).numpy()


def fit_nearest(values: Floats, classes: Ints, count: int, neighbours: int) -> NearestProbe:
    """A bank of values [N, E] with classes [N] of `count`: at most `BANK` of each class, by chance."""
    order = np.random.default_rng(0).permutation(len(classes))
    rows = np.concatenate([order[classes[order] == number][:BANK] for number in range(count)])
    return NearestProbe(semantics.unit_vectors(values[rows]), classes[rows], count, neighbours)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled points of several scenes with the features of one method."""

    class_names: tuple[str, ...]
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


def labelled_points(method: PointMethod, scenes: Iterable[PointScene], most: int) -> Labelled:
    """At most so many points of each scene, with features; errors as of `drawn_rows`.

    Raises ConfigurationError where the scenes have not one list of classes.
    """
    levels, columns, lists = list[Levels](), list[tuple[NDArray[Any], ...]](), set[tuple[str, ...]]()
    for number, scene in enumerate(scenes):
        rows = drawn_rows(scene, most)
        levels.append(tuple(level.astype(np.float16) for level in method.features(scene, rows)))
        labels = true_classes(scene)[rows]
        columns.append((labels, offsets(scene)[rows], np.full(len(rows), number), np.arange(len(rows))))
        lists.add(scene.classes)
    if len(lists) != 1:
        cure = "Name scenes of one data set"
        raise ConfigurationError(f"{len(lists)} lists of classes", where="--probe-on", cure=cure)
    side = tuple(np.concatenate(level) for level in zip(*levels, strict=True))
    classes, moves, numbers, ranks = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Labelled(lists.pop(), side, classes, moves, numbers, ranks)


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

    def labels(self, levels: Levels) -> Ints:
        """Classes [N] of points by their features."""
        starts = range(0, max(len(levels[0]), 1), _AT_ONCE)
        blocks = (tuple(level[start : start + _AT_ONCE] for level in levels) for start in starts)
        return np.concatenate([self.probe.labels(side_by_side(block, self.levels)) for block in blocks])


POINTS = Metric(
    "points",
    "Classes of points, in percent; scenes stand under `frames`. `of all` divides by the number of all classes, as "
    "CUA-O3D does. As released, points without a feature leave the count. Probes of linear heads have the same "
    "hypotheses as that of the trunk.",
    semantics.ZERO_SHOT.columns,
    lambda method: semantics.ZeroShotMetric(method.class_names),
    classes="class_iou",
)


class AmbiguityTally(Tally):
    """Mean circular variance of the points of scenes, of all and of each class.

    Answers are pairs: variance [N], NaN where it is not known, and true classes [N].
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._sums = np.zeros((len(names) + 1, 2))  # of variances and of points; the last row of unlabelled ones

    def add(self, answer: tuple[Floats, Ints]) -> None:
        """Count the points of a scene."""
        variance, true = answer
        known = np.isfinite(variance)
        place = np.where(true == UNLABELLED, len(self.names), true)[known]
        np.add.at(self._sums, place, np.stack([variance[known], np.ones(len(place))], axis=1))
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """One."""
        of_classes = {
            name: total / count if count else np.nan
            for name, (total, count) in zip(self.names, self._sums.tolist(), strict=False)
        }
        total, count = self._sums.sum(axis=0).tolist()
        yield {"variance": total / count if count else np.nan, "points": int(count), "class_variance": of_classes}


AMBIGUITY = Metric(
    "ambiguity",
    "How much features of a point differ between the views that see it: circular variance in percent, mean over the "
    "points that two views see at least; scenes stand under `frames`.",
    columns("variance") + columns("points", percent=False),
    lambda method: AmbiguityTally(method.class_names),
    classes="class_variance",
)


def fit_probes(name: str, labelled: Labelled, *, ablations: bool) -> Iterator[PointProbe]:
    """Probes of all levels; a ConfigurationError if fewer than two classes have labels.

    `ablations`: also of each level alone and of all but it, and with few labels (`SHARES`, `FEW_POINTS`).
    """
    every = tuple(range(len(labelled.levels)))
    all_rows = np.ones(len(labelled.classes), np.bool_)
    cases = [("", every, all_rows)]
    if ablations and len(every) > 1:
        for number in every:
            others = tuple(other for other in every if other != number)
            cases += [(f", level {number + 1} alone", (number,), all_rows)]
            cases += [(f", all but level {number + 1}", others, all_rows)]
    if ablations:
        order = np.random.default_rng(0).permutation(int(labelled.scene.max(initial=-1)) + 1)
        for share in SHARES:
            some = order[: round(share / 100.0 * len(order))]
            if not len(some):
                said = f"{name}: {share} % of {len(order)} scenes are none; name {-(-100 // share)} for this row"
                print_lines(said)
                continue
            cases.append((f", {share} % of the scenes", every, np.isin(labelled.scene, some)))
        cases += [(f", {most} points a scene", every, labelled.rank < most) for most in FEW_POINTS]
    names = labelled.class_names
    for what, levels, rows in cases:
        values, classes = labelled.values(levels, rows), labelled.classes[rows]
        linear = fit_linear_probe(values, classes, len(names), where=f"{name}{what}")
        yield PointProbe(f"{name}, linear{what}", levels, linear, names)
        for neighbours in NEIGHBOURS:
            nearest = fit_nearest(values, classes, len(names), neighbours)
            yield PointProbe(f"{name}, {neighbours} nearest{what}", levels, nearest, names)


class PointModel:
    """The network of a checkpoint of stage `point_agglomeration`, in eval mode; a BundleError where it is no such.

    It runs on the GPU where there is one. Levels of its features are the trunk, and the head of each teacher.
    """

    def __init__(self, file: Path) -> None:
        stored, self.device = Checkpoint.read(file), accelerator()
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
        self.network.to(self.device).eval().requires_grad_(False)
        # What each teacher was, plain values by name.
        self.teachers = {teacher["name"]: teacher for teacher in self.configuration["teachers"]}

    def untrained(self) -> "PointModel":
        """The same with weights that have learned nothing."""
        other = copy.copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            other.network = AgglomeratedPoints.of(self.configuration)
        other.network.to(self.device).eval().requires_grad_(False)
        return other

    @torch.inference_mode()
    def features(self, scene: PointScene, rows: Ints | None = None) -> Levels:
        """Features [n, D_l] at rows of a scene, by one voxelisation; at all its points the mean of `REPEATS`."""
        if self._input == "colour" and scene.colours is None:
            cure = "Score a training with data.input=ones, or scenes that have them"
            raise ConfigurationError("has no colours, which the network takes", where=f"scene {scene.name}", cure=cure)
        generator = np.random.default_rng(0)  # the same voxelisations for every model
        colours = np.zeros_like(scene.points) if scene.colours is None else scene.colours
        total: list[Floats] = []
        repeats = REPEATS if rows is None else 1
        for _ in range(repeats):
            cells, chosen, voxel = voxelised(scene.points, self._voxel_size, generator)
            index = functional.pad(torch.from_numpy(cells), (1, 0)).to(self.device)  # all of scene 0
            inputs = torch.from_numpy(voxel_inputs(colours, chosen, self._input)).to(self.device)
            trunk: Tensor = self.network(index, inputs)
            heads = (self.network.heads.of(teacher, trunk) for teacher in self.teachers)
            at = voxel if rows is None else voxel[rows]
            parts = [level.cpu().numpy()[at] for level in (trunk, *heads)]
            for one, part in zip(total, parts, strict=False):
                one += part
            total = total or parts
        return tuple(np.asarray(one / repeats, np.float32) for one in total)

    def trunk(self, scene: PointScene, rows: Ints | None = None) -> Levels:
        """The first level of `features` alone."""
        return self.features(scene, rows)[:1]

    def teacher_of(self, rows: Floats) -> str:
        """The first teacher whose features are as long as embeddings [K, D]; a ConfigurationError if there is none."""
        dims: dict[str, int] = {name: teacher["dim"] for name, teacher in self.teachers.items()}
        fitting = [name for name, dim in dims.items() if dim == rows.shape[1]]
        if not fitting:
            what = f"embeddings of {rows.shape[1]} numbers, features of {', '.join(map(str, dims.values()))}"
            cure = "Name the text encoder that a teacher is aligned to"
            raise ConfigurationError(what, where="--text-encoder", cure=cure)
        return fitting[0]


def fit_head_probes(labelled: Labelled, teachers: Sequence[str]) -> Iterator[PointProbe]:
    """Linear probes of the trunk, each head, all heads side by side, and the average over the heads, as in CUA-O3D.

    Linear heads hold no more than the trunk does: all these probes choose from the same classes of functions, and
    differ by how fast they learn (S5). `labelled`: with features of `PointModel`.
    """
    names, heads = labelled.class_names, tuple(range(1, 1 + len(teachers)))
    spaces = {"trunk": (0,), **{f"head {name}": (place,) for name, place in zip(teachers, heads, strict=True)}}
    probes = {
        name: fit_linear_probe(labelled.values(levels), labelled.classes, len(names))
        for name, levels in {**spaces, "concatenation": heads}.items()
    }
    of_heads = [probes[f"head {name}"] for name in teachers]
    weight = np.concatenate([probe.weight for probe in of_heads], axis=1) / len(heads)
    bias = np.stack([probe.bias for probe in of_heads]).mean(axis=0)
    average = LinearProbe(np.asarray(weight, np.float32), np.asarray(bias, np.float32))
    probes["average of the heads' logits"] = average
    for name, probe in probes.items():
        yield PointProbe(f"probe, {name}", spaces.get(name, heads), probe, names)


def labels_by_words(features: Floats, rows: Floats, lifted: Floats | None) -> dict[str, Ints]:
    """Classes of points [N] by the nearest of embeddings [K, D]: of the network, of pixels, and of both; K for none.

    `features`: of the network [N, D]; `lifted`: of the pixels that show a point [N, D], zeros where none does.
    """
    scores = {"3D": semantics.cosines(features, rows)}
    if lifted is not None:
        pixels = semantics.cosines(lifted, rows)
        scores |= {f"2D and 3D, {rule}": both for rule, both in ensembled(scores["3D"], pixels).items()}
        # As released: the longer one counts more.
        scores["2D and 3D, raw mean"] = semantics.cosines(features + lifted, rows)
        scores["2D, lifted"] = pixels
    return {name: semantics.best_classes(of_points) for name, of_points in scores.items()}


def ensembled(network: Floats, lifted: Floats) -> dict[str, Floats]:
    """Scores [N, K] of network and pixels together, each by cosines of its own; the network alone where no view sees.

    "mean": of the mean of both features, each of length one (CUA-O3D has those of any length). "max": of the feature
    whose best class is nearer, point by point (OpenScene).
    """
    known = ~np.isneginf(lifted).all(axis=1, keepdims=True)
    nearer = network.max(axis=1, keepdims=True) >= lifted.max(axis=1, keepdims=True)
    mean = np.where(known, 0.5 * (network + np.where(known, lifted, 0.0)), network)
    return {"mean": np.asarray(mean, np.float32), "max": np.where(nearer, network, lifted)}


class ScoredMethod(NamedTuple):
    """A method that gives classes, for tables."""

    name: str
    class_names: tuple[str, ...]


class SupervisedModel:
    """The network of a checkpoint of stage `supervised_points`, in eval mode, on the GPU where there is one."""

    def __init__(self, file: Path) -> None:
        stored, self.device = Checkpoint.read(file), accelerator()
        self._file, self._settings = file, stored.configuration
        self.class_names: tuple[str, ...] = tuple(stored.record["classes"])
        self.network = SupervisedPoints.of(self._settings, len(self.class_names))
        self.network.load_state_dict(dict(stored.state))
        self.network.to(self.device).eval().requires_grad_(False)
        self.hierarchical = self._settings["network"] == "hu_net"

    @torch.inference_mode()
    def labels(self, scene: PointScene, rows: Ints | None = None) -> Ints:
        """Classes [n] at rows of a scene, by one voxelisation; of all its points by the mean logits of `REPEATS`.

        Raises ConfigurationError where the scene has another list of classes than the training.
        """
        if scene.classes != self.class_names:
            what = f"its {len(scene.classes)} classes are not the {len(self.class_names)} that {self._file} learned"
            raise ConfigurationError(what, where=scene.name, cure="Name the --labels of its training")
        colour = self._settings["network"] == "minkowski" and self._settings["data"]["input"] == "colour"
        if colour and scene.colours is None:
            cure = "Name scenes that have them, or a network of data.input=ones"
            raise ConfigurationError("has no colours", where=f"scene {scene.name}", cure=cure)
        generator = np.random.default_rng(0)
        place = (scene.points - scene.points.min(axis=0)) / np.float32(self._settings["data"]["voxel_size"])
        features = point_features(len(scene), scene.colours, scene.normals)
        total = np.zeros((len(scene), len(self.class_names)), np.float32)
        for _ in range(REPEATS if rows is None else 1):
            at = np.asarray(place + generator.uniform(0.0, OFFSETS, 3), np.float32)
            cells, chosen, _ = voxels_of(at, generator)
            inputs = network_inputs(features[chosen], self._settings["network"], self._settings["data"]["input"])
            index, points = (functional.pad(torch.from_numpy(of), (1, 0)).to(self.device) for of in (cells, at))
            total += self.network(index, torch.from_numpy(inputs).to(self.device), points).cpu().numpy()
        return np.asarray(total.argmax(axis=1), np.int64)[slice(None) if rows is None else rows]
