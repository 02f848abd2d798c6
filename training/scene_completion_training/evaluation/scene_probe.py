"""Linear probes of voxel features on labelled scenes: how much of the classes features hold, all levels side by side.

One linear layer on standardised inputs, AdamW and a cosine schedule, cross-entropy. The probed features stay as they
are. In the released code of CUA-O3D the running statistics of the "frozen" network drift while its probe is trained
(S6). Features of zeros are none. Such voxels count as misses, and no probe learns from them. All methods see the same
voxels.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.evaluation.truth import ALL
from scene_completion_ros.evaluation.zero_shot import Part
from scene_completion_ros.sequences.opening import holds_voxels
from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_ros.whole_files import write_whole
from scene_completion_training.evaluation.voxel_features import SceneFrame, VoxelFeatures
from scene_completion_training.masked_scene.scenes import SceneMaker, VoxelScene, keep_scenes

NAMES = COMMON_CLASSES[1:]  # classes that are told apart: the 15 of S4C
LEARNING_RATE = WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
BATCH = 2048
_TEST_SEED = 0


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Classes by a linear layer."""

    weight: NDArray[np.float32]  # float32 [K, E]
    bias: NDArray[np.float32]  # float32 [K]

    def logits(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, K] of what is probed [N, E]."""
        return np.asarray(values @ self.weight.T + self.bias, np.float32)

    def labels(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class [N] of the largest logit, of what is probed [N, E]."""
        return np.asarray(self.logits(values).argmax(axis=1), np.int64)

    def save(self, file: Path) -> None:
        """Writes it as safetensors."""
        write_whole(file, safetensors.numpy.save({"weight": self.weight, "bias": self.bias}))

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
    values: NDArray[np.float32], classes: NDArray[np.int64], count: int, *, seed: int, steps: int
) -> LinearProbe:
    """Fits a probe to values [N, E] and their classes [N] of `count`.

    Raises ConfigurationError where they are of fewer than two classes.
    """
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
class ProbedScene:
    """Some labelled voxels of a scene."""

    frame: SceneFrame
    rows: NDArray[np.int64]  # their rows in the scene [N]
    classes: NDArray[np.int64]  # int64 [N], in 0 .. K - 1


def labelled_scenes(maker: SceneMaker, cache: Path, every: int) -> list[SceneFrame]:
    """Scenes of the frames that have ground truth: of a town every N-th, of a KITTI window the first.

    Raises ConfigurationError where no frame has ground truth; SequenceError where None of them has an occupied voxel.
    """
    sequence = maker.sequence
    frames = range(0, len(sequence), every) if holds_exact_voxels(sequence) else range(1)
    frames_with = [index for index in frames if holds_voxels(sequence, index)]
    if not frames_with:
        what = "no frame has ground truth voxels"
        raise ConfigurationError(what, where=sequence.name, cure="Name towns or KITTI windows with labels")
    files = keep_scenes(maker, cache, frames_with)
    return [SceneFrame(sequence, int(file.stem), VoxelScene.load(file)) for file in files]


def drawn(frame: SceneFrame, most: int, seed: int = _TEST_SEED) -> ProbedScene | None:
    """At most so many labelled voxels of a scene, drawn at random; None where none is labelled."""
    label = frame.scene.label
    if label is None:
        return None
    labelled = np.flatnonzero((label != EMPTY) & (label != INVALID))
    place = zlib.crc32(frame.scene.name.encode())
    rows = np.random.default_rng([seed, place]).permutation(labelled)[:most]
    return ProbedScene(frame, rows, label[rows].astype(np.int64) - 1) if len(rows) else None


@dataclass(frozen=True, eq=False)
class ProbeAnswer:
    """What a probe says of the voxels of a scene, see `ZERO_SHOT`; K where there is no feature."""

    predicted: NDArray[np.int64]
    true: NDArray[np.int64]
    parts: dict[Part, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Probed:
    """Features with a linear probe that was fitted to them, as a method that is scored."""

    name: str
    features: VoxelFeatures
    probe: LinearProbe
    class_names: tuple[str, ...] = NAMES

    def answer(self, scene: ProbedScene) -> ProbeAnswer:
        """Read the classes off the features."""
        values = _side_by_side(self.features, scene)
        predicted = self.probe.labels(values)
        predicted[~values.any(axis=1)] = len(self.class_names)
        return ProbeAnswer(predicted, scene.classes, {(51.2, ALL): np.ones(len(predicted), np.bool_)})


def fit_probe(name: str, features: VoxelFeatures, scenes: Sequence[ProbedScene], *, seed: int, steps: int) -> Probed:
    """Fits the probe of a method to scenes.

    Raises ConfigurationError where there is no labelled voxel, or all are of one class.
    """
    if not scenes:
        raise ConfigurationError("no scene has a labelled voxel", where="probe", cure="Name recordings that have")
    values = np.concatenate([_side_by_side(features, scene) for scene in scenes])
    classes = np.concatenate([scene.classes for scene in scenes])
    known = values.any(axis=1)
    return Probed(name, features, fit_linear_probe(values[known], classes[known], len(NAMES), seed=seed, steps=steps))


def _side_by_side(features: VoxelFeatures, scene: ProbedScene) -> NDArray[np.float32]:
    return np.concatenate(features.features(scene.frame, scene.rows), axis=1)
