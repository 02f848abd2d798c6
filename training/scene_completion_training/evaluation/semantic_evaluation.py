"""Unsupervised semantics against ground truth voxels: clusters, their names, and scores under S4C's protocol.

Clusters are fitted to surfaces in training recordings, without labels. Their names come from labelled voxels of
training recordings as well. Test labels are only ever compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.cluster_assignment import Match, match_occupied, match_one_to_one
from scene_completion_ros.evaluation.semantic_classes import (
    CITYSCAPES_TO_COMMON,
    COMMON_CLASSES,
    INVALID,
    SEMANTIC_KITTI_TO_COMMON,
    ClassMap,
)
from scene_completion_ros.evaluation.semantic_completion import SemanticTally
from scene_completion_ros.evaluation.truth import INTERIORS, FrameTruth, VoxelTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering.clusters import Clusters, fit_clusters
from scene_completion_training.evaluation.controls import PRIOR_SIGMA
from scene_completion_training.evaluation.density_model import DensityModel
from scene_completion_training.evaluation.geometry import Frame, voxel_frames
from scene_completion_training.evaluation.scene_probe import LinearProbe
from scene_completion_training.evaluation.semantic_models import (
    FeatureFieldModel,
    SemanticModel,
    SemanticObservation,
    surface_points,
)
from scene_completion_training.networks.feature_field import ClassField

NAMED_WITHIN = 51.2
"""Range in which clusters are named, metres: the largest."""
Assignment: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""Codes [N, C] of points -> number of each [N], from 0 on: of its cluster, or of its class without "empty"."""


class ScoredModel(Protocol):
    """Anything whose labels of voxels can be counted against classes, and named afterwards."""

    @property
    def name(self) -> str:
        """Short name for tables."""

    @property
    def labels(self) -> int:
        """Labels that it predicts, "empty" among them."""

    def names(self) -> NDArray[np.int64]:
        """The class [labels] of each label, "empty" first."""

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Labels of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""


@dataclass(frozen=True, eq=False)
class LabelAnswer:
    """Labels of a frame's voxels beside their classes, uint8 [X, Y, Z] each; see `SEMANTICS`."""

    truth: FrameTruth
    labels: NDArray[np.uint8]
    classes: NDArray[np.uint8]


class Labels:
    """A `ScoredModel` as a method that is scored."""

    def __init__(self, model: ScoredModel) -> None:
        self.name, self.labels, self.names = model.name, model.labels, model.names
        self._model = model

    def answer(self, frame: Frame) -> LabelAnswer:
        """Look at a frame that has voxels."""
        truth = frame.truth.voxels
        assert truth is not None
        labels = self._model.predict(frame.sequence, frame.index, truth)
        return LabelAnswer(frame.truth, labels, voxel_classes(truth))


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model whose clusters have been found and named.

    Attributes:
        cutoff: Density per metre that an occupied voxel exceeds.
        confusion: Clusters against classes on the labelled training recordings, int64 [1 + K, classes], empty first.
    """

    model: SemanticModel
    cutoff: float
    clusters: Clusters
    confusion: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def labels(self) -> int:
        """Labels that it predicts: "empty" and the clusters."""
        return 1 + len(self.clusters.centres)

    def names(self, match: Match = match_one_to_one) -> NDArray[np.int64]:
        """The class [1 + K] of "empty" and of each cluster, see `cluster_assignment`."""
        return match_occupied(self.confusion, match)

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Clusters of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty, cluster k as k + 1."""
        observed = self.model.observe(sequence, index)
        return label_volume(observed, self.cutoff, self.clusters.assign, truth)


def label_volume(
    observed: SemanticObservation,
    cutoff: float,
    assign: Assignment,
    truth: VoxelTruth,
) -> NDArray[np.uint8]:
    """Labels of the voxels that count: uint8 [X, Y, Z], 0 where nothing is, what is assigned to k as k + 1."""
    volume = np.zeros(truth.grid.shape, dtype=np.uint8)
    points = truth.centres(truth.counted)
    occupied = observed.observation.density(points) > cutoff
    chosen = np.flatnonzero(truth.counted.reshape(-1))[occupied]
    volume.reshape(-1)[chosen] = 1 + assign(observed.codes(points[occupied]))
    return volume


def fit_models(
    models: Sequence[SemanticModel],
    cutoff: float,
    recordings: Sequence[PosedSequence],
    labelled: Sequence[PosedSequence],
    *,
    clusters: int = 19,
    points_a_frame: int = 500,
    seed: int = 0,
) -> list[FittedModel]:
    """Finds clusters without labels, and counts how they fall together with classes.

    All models look at the same pixels, frame by frame, so that what they share is computed once.

    Args:
        cutoff: Density per metre that an occupied voxel exceeds.
        recordings: Training recordings whose surfaces are clustered.
        labelled: Training recordings with ground truth voxels, for the names.

    Raises:
        ConfigurationError: Fewer points than clusters, or no labelled frame.
    """
    generators = [np.random.default_rng(seed) for _ in models]
    codes: list[list[NDArray[np.float32]]] = [[] for _ in models]
    for sequence in recordings:
        for index in range(len(sequence)):
            for model, generator, found in zip(models, generators, codes, strict=True):
                observed = model.observe(sequence, index)
                found.append(observed.codes(surface_points(observed, generator, points_a_frame)))
    fitted = [fit_clusters(np.concatenate(found), clusters, seed=seed) for found in codes]
    return named_by(models, cutoff, fitted, labelled)


def named_by(
    models: Sequence[SemanticModel],
    cutoff: float,
    clusters: Sequence[Clusters],
    labelled: Sequence[PosedSequence],
) -> list[FittedModel]:
    """Counts how the clusters of each model fall together with the classes of labelled recordings.

    Raises:
        ConfigurationError: No frame is labelled.
    """
    nameless = [
        FittedModel(model, cutoff, own, np.zeros((0, 0), np.int64)) for model, own in zip(models, clusters, strict=True)
    ]
    tallies = [(Labels(fitted), SemanticTally(fitted)) for fitted in nameless]
    for frame in voxel_frames(labelled):
        for method, tally in tallies:
            tally.add(method.answer(frame))
    if not all(tally.frames for _, tally in tallies):
        raise no_voxels(labelled)
    return [
        dataclasses.replace(fitted, confusion=tally.confusion[NAMED_WITHIN])
        for fitted, (_, tally) in zip(nameless, tallies, strict=True)
    ]


def no_voxels(recordings: Sequence[PosedSequence]) -> ConfigurationError:
    """That no frame of recordings has ground truth voxels."""
    names = ", ".join(sequence.name for sequence in recordings)
    return ConfigurationError("no frame has ground truth voxels", where=names, cure="Name recordings that have")


class ClassPrior:
    """A control: of every voxel the class that is most frequent around it in labelled recordings, whatever it shows.

    Args:
        labelled: Training recordings with ground truth voxels on one grid.

    Raises:
        ConfigurationError: No frame is labelled.
    """

    name = "class prior of the voxel"
    labels = len(COMMON_CLASSES)

    def __init__(self, density: DensityModel, cutoff: float, labelled: Sequence[PosedSequence]) -> None:
        from scipy.ndimage import gaussian_filter

        self._density = density
        self._cutoff = cutoff
        found = [frame.truth.voxels for frame in voxel_frames(labelled) if frame.truth.voxels is not None]
        if not found:
            raise no_voxels(labelled)
        self._grid, self._grid_from_camera = found[0].grid, found[0].grid_from_camera
        classes = [voxel_classes(truth) for truth in found]
        best = np.zeros(self._grid.shape, np.float32)
        self._class = np.ones(self._grid.shape, np.uint8)
        for number in range(1, self.labels):
            share = np.mean([volume == number for volume in classes], axis=0, dtype=np.float32)
            if share.any():
                smooth = gaussian_filter(share, PRIOR_SIGMA)
                self._class[smooth > best] = number
                best = np.maximum(best, smooth)

    def names(self) -> NDArray[np.int64]:
        """Its labels are classes."""
        return np.arange(self.labels)

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Classes of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""
        requested = truth.counted
        points = truth.centres(requested)
        occupied = self._density.observe(sequence, index).density(points) > self._cutoff
        place, _ = self._grid.index_of(self._grid_from_camera.apply(points[occupied].astype(np.float64)))
        place = np.clip(np.asarray(place), 0, np.array(self._grid.shape) - 1)  # beyond its grid, the class of its edge
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume.reshape(-1)[np.flatnonzero(requested.reshape(-1))[occupied]] = self._class[tuple(place.T)]
        return volume


def voxel_classes(truth: VoxelTruth, class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON) -> NDArray[np.uint8]:
    """Classes [X, Y, Z], the 15 of S4C by default; 255 where nothing is known, and inside of things no sensor sees."""
    inside = truth.regions_with_interiors.get(INTERIORS, np.zeros_like(truth.known))
    return class_map.apply(np.where(truth.known & ~inside, truth.labels, INVALID))


class ClassifiedModel:
    """A model whose points get classes right away, with no clusters to be named (a `ScoredModel`).

    Args:
        model: Gives the codes of points.
        cutoff: Density per metre that an occupied voxel exceeds.
        classify: Class of each code, its number in `COMMON_CLASSES` less one.
    """

    labels = len(COMMON_CLASSES)

    def __init__(self, model: SemanticModel, cutoff: float, name: str, classify: Assignment) -> None:
        self.name = name
        self._model = model
        self._cutoff = cutoff
        self._classify = classify

    def names(self) -> NDArray[np.int64]:
        """Its labels are classes."""
        return np.arange(self.labels)

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Classes of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""
        return label_volume(self._model.observe(sequence, index), self._cutoff, self._classify, truth)


def open_supervised(path: Path, density: DensityModel, cutoff: float) -> ClassifiedModel:
    """Opens a checkpoint of a field that has learned classes from labels: what the same network could reach.

    Raises:
        BundleError: It is none.
    """
    name = f"{path.resolve().parent.parent.name} (learned from labels)"
    model = FeatureFieldModel.open(path, name, density, ClassField)
    return ClassifiedModel(model, cutoff, model.name, lambda logits: np.asarray(logits.argmax(axis=1), np.int64))


def open_probed(path: Path, probe_file: Path, density: DensityModel, cutoff: float) -> ClassifiedModel:
    """Opens a feature field with a linear probe that `evaluate segmentation` trained on images: classes of points.

    Raises:
        BundleError: The checkpoint holds no feature field.
        ConfigurationError: The file holds no probe, or one of another field.
    """
    probe, model = LinearProbe.read(probe_file), FeatureFieldModel.open(path, density=density)
    size = probe.weight.shape[1]
    if size == model.field.target_size:
        model.head = None
    elif model.head is None or size != model.head.linear.out_features:
        raise ConfigurationError(
            f"is for features of size {size}, which {path} has not", where=str(probe_file), cure="Name its own probe"
        )

    def classify(codes: NDArray[np.float32]) -> NDArray[np.int64]:
        return CITYSCAPES_TO_COMMON.apply(probe.labels(codes)).astype(np.int64) - 1  # empty, as the sky is, becomes -1

    return ClassifiedModel(model, cutoff, f"{model.name}, probe of {'head' if model.head else 'features'}", classify)
