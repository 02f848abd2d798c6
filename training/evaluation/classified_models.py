"""Models that say classes by themselves, with no clusters to be named: they have learned from labels.

They are measuring instruments. A linear probe says how much of the classes the features of a field hold, whatever
becomes of them in clusters. A field that was trained with labels says what the same network could reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering.clusters import fit_label_head
from scene_completion_training.evaluation.density_model import DensityModel
from scene_completion_training.evaluation.semantic_evaluation import (
    Assignment,
    Naming,
    label_volume,
    truths,
    voxel_classes,
)
from scene_completion_training.evaluation.semantic_models import FeatureFieldModel, SemanticModel, SemanticObservation
from scene_completion_training.networks.feature_field import ClassField

PROBE_POINTS = 2000
"""Labelled voxels of a frame that a probe is fitted to, at most, drawn at random."""


class ClassifiedModel:
    """A model whose points get classes right away (a `ScoredModel`).

    Args:
        model: Gives the codes of points.
        cutoff: Density per metre that an occupied voxel exceeds.
        classify: Class of each code, its number in `COMMON_CLASSES` less one.
    """

    labels = len(COMMON_CLASSES)
    namings: tuple[Naming, ...] = ("hungarian", "covering", "majority")

    def __init__(self, model: SemanticModel, cutoff: float, name: str, classify: Assignment) -> None:
        self.name = name
        self._model = model
        self._cutoff = cutoff
        self._classify = classify

    def names(self, naming: Naming) -> NDArray[np.int64]:
        """Its labels are classes."""
        return np.arange(self.labels)

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Classes of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""
        return label_volume(self._model.observe(sequence, index), self._cutoff, self._classify, truth)


def open_supervised(path: Path, density: DensityModel, cutoff: float) -> ClassifiedModel:
    """Opens a checkpoint of a field that has learned classes from labels; a `BundleError` if it is none."""
    name = f"{path.resolve().parent.parent.name} (learned from labels)"
    model = FeatureFieldModel.open(path, name, density, ClassField)
    return ClassifiedModel(model, cutoff, model.name, lambda logits: np.asarray(logits.argmax(axis=1), np.int64))


def fit_probes(
    models: Sequence[SemanticModel],
    cutoff: float,
    labelled: Sequence[PosedSequence],
    *,
    seed: int = 0,
) -> list[ClassifiedModel]:
    """Fits linear probes: multinomial logistic regressions of the classes of voxels on the codes of each model.

    They learn from the voxels that clusters get their names from: those that are labelled, in the image, and denser per
    metre than the cutoff. All of them weigh the same, as in published probes; so rare classes are rarely said.

    Raises:
        ConfigurationError: The voxels have fewer than two classes, or there are none.
    """
    samples = [_ProbeSample(np.random.default_rng(seed)) for _ in models]
    for sequence, index, truth in truths(labelled):
        for model, sample in zip(models, samples, strict=True):
            observed = model.observe(sequence, index)
            points, found = labelled_points(observed, cutoff, truth)
            chosen = sample.generator.permutation(len(points))[:PROBE_POINTS]
            if len(chosen):
                sample.codes.append(observed.codes(points[chosen]))
                sample.classes.append(found[chosen])
    return [_probe(model, sample, cutoff, labelled) for model, sample in zip(models, samples, strict=True)]


@dataclass(eq=False)
class _ProbeSample:
    """Codes [N, C] and classes [N] that a probe learns from, by frame."""

    generator: np.random.Generator
    codes: list[NDArray[np.float32]] = field(default_factory=list)
    classes: list[NDArray[np.int64]] = field(default_factory=list)


def _probe(
    model: SemanticModel, sample: _ProbeSample, cutoff: float, labelled: Sequence[PosedSequence]
) -> ClassifiedModel:
    if len(np.unique(np.concatenate(sample.classes) if sample.classes else [])) < 2:
        raise ConfigurationError(
            f"{sum(map(len, sample.classes))} labelled voxels of fewer than two classes for a probe of {model.name}",
            where=", ".join(sequence.name for sequence in labelled),
            cure="Name more recordings with ground truth voxels",
        )
    order = sample.generator.permutation(sum(map(len, sample.classes)))
    codes, classes = np.concatenate(sample.codes)[order], np.concatenate(sample.classes)[order]
    head = fit_label_head(codes, classes, len(COMMON_CLASSES) - 1)
    return ClassifiedModel(model, cutoff, f"{model.name}, linear probe", head.assign)


def labelled_points(
    observed: SemanticObservation, cutoff: float, truth: VoxelTruth
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Labelled voxels in the image that are occupied for the density, too.

    Returns:
        Their centres [N, 3], metres, optical frame of the reference camera, and their classes [N]: the number in
        `COMMON_CLASSES` less one.
    """
    classes = voxel_classes(truth)
    asked = truth.counted & (classes != EMPTY) & (classes != INVALID)
    points = truth.centres(asked)
    occupied = observed.observation.density(points) > cutoff
    return points[occupied], classes[asked][occupied].astype(np.int64) - 1
