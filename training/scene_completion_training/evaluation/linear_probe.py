"""Linear probes of frozen features: how much of the classes they hold, whatever the text encoder makes of them.

One linear layer on standardised inputs, AdamW and a cosine schedule, cross-entropy. The probed features stay as they
are. In the released code of CUA-O3D the running statistics of the "frozen" network drift while its probe is trained
(S6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import EMPTY, INVALID
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.geometry import voxel_frames
from scene_completion_training.evaluation.open_vocabulary import (
    Judgement,
    LabelSet,
    OpenVocabularyModel,
    OpenVocabularyObservation,
)
from scene_completion_training.evaluation.semantic_evaluation import voxel_classes

LEARNING_RATE = WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
STEPS, BATCH = 1000, 2048
POINTS_A_FRAME = 4000
"""Labelled voxels of a frame that a probe learns from, at most, drawn at random."""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Classes of points by a linear layer on what is probed: its units, or its features where it has none (a `Judge`).

    Attributes:
        weight: float32 [K, E].
        bias: float32 [K].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    words: Mapping[str, Sequence[int]]

    def __call__(self, observed: OpenVocabularyObservation, points: NDArray[np.float32]) -> Judgement:
        """Classes of points [N, 3]; it knows no words."""
        values, known = probed(observed, points)
        labels = self.labels(values)
        labels[~known] = len(self.bias)
        return Judgement(labels, np.zeros((len(points), 0), np.float32), np.zeros(len(points), np.float32))

    def labels(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class [N] of the largest logit, of what is probed [N, E]."""
        return np.asarray((values @ self.weight.T + self.bias).argmax(axis=1), np.int64)


def probed(
    observed: OpenVocabularyObservation, points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What a probe sees of points [N, 3]: values [N, E], and where there are any, bool [N]."""
    if observed.units is not None:
        return observed.units(points), np.ones(len(points), np.bool_)
    features = observed.features(points)
    known: NDArray[np.bool_] = np.isfinite(features).all(axis=1) & (features != 0.0).any(axis=1)
    return np.where(known[:, None], features, np.float32(0.0)), known


def fit_linear_probe(
    values: NDArray[np.float32], classes: NDArray[np.int64], count: int, *, seed: int = 0, steps: int | None = None
) -> LinearProbe:
    """Fits a probe to values [N, E] and their classes [N] of `count`, in `STEPS` unless told otherwise.

    Raises:
        ConfigurationError: They are of fewer than two classes.
    """
    if len(np.unique(classes)) < 2:
        raise ConfigurationError(
            f"{len(classes)} voxels of fewer than two classes",
            where="linear probe",
            cure="Name more recordings with ground truth voxels to train on",
        )
    mean, scale = values.mean(axis=0), values.std(axis=0) + np.float32(1e-6)
    inputs, targets = torch.from_numpy((values - mean) / scale), torch.from_numpy(classes)
    generator = torch.Generator().manual_seed(seed)
    steps = STEPS if steps is None else steps
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
    return LinearProbe(weight, layer.bias.detach().numpy() - weight @ mean, {})


def probe_models(
    models: Sequence[OpenVocabularyModel],
    recordings: Sequence[PosedSequence],
    label_set: LabelSet,
    *,
    every: int = 1,
    seed: int = 0,
) -> list[LinearProbe]:
    """Fits a probe of each model to the same labelled voxels in view of recordings, wherever the models' density lies.

    Raises:
        ConfigurationError: They have fewer than two classes.
    """
    generator = np.random.default_rng(seed)
    values: list[list[NDArray[np.float32]]] = [[] for _ in models]
    found: list[list[NDArray[np.int64]]] = [[] for _ in models]
    for frame in voxel_frames(recordings, every):
        truth = frame.truth.voxels
        assert truth is not None
        classes = voxel_classes(truth, label_set.class_map)
        asked = truth.counted & (classes != EMPTY) & (classes != INVALID)
        points = truth.centres(asked)
        chosen = generator.permutation(len(points))[:POINTS_A_FRAME]
        true = classes[asked][chosen].astype(np.int64) - 1
        for number, model in enumerate(models):
            inputs, known = probed(model.observe(frame.sequence, frame.index), points[chosen])
            values[number].append(inputs[known])
            found[number].append(true[known])
    if not all(sum(map(len, of_model)) for of_model in found):
        raise ConfigurationError(
            "no voxel is labelled",
            where=", ".join(sequence.name for sequence in recordings),
            cure="Name recordings with ground truth voxels",
        )
    return [
        fit_linear_probe(np.concatenate(inputs), np.concatenate(true), len(label_set.names), seed=seed)
        for inputs, true in zip(values, found, strict=True)
    ]
