"""Classes of points, as CUA-O3D is scored: zero-shot by lifted features, the network and both, and linear probes.

Scores are cosines with the embedding of each class; those of a network are summed over several voxelisations at random
offsets. CUA-O3D takes products with features of any length, and averages those of pixels and network as they are (S4):
here both are brought to length one before. Probes leave the network as it is, running statistics included (S6).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantics import best_classes, cosines
from scene_completion_training.arrays import Floats, Ints, Random
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.evaluation.probes import LinearProbe, fit_linear_probe
from scene_completion_training.networks.agglomerated_field import AgglomeratedPoints
from scene_completion_training.points.data import LiftedScene, voxel_inputs
from scene_completion_training.points.scene import PointScene
from scene_completion_training.points.voxels import VoxelisedPoints, voxelised

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
