"""Unsupervised semantics against ground truth voxels: clusters, their names, and scores under S4C's protocol.

Clusters are fitted to surfaces in training recordings, without labels. Their names come from labelled voxels of
training recordings as well. Test labels are only ever compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.cluster_assignment import (
    match_covering,
    match_majority,
    match_occupied,
    match_one_to_one,
)
from scene_completion_ros.evaluation.semantic_classes import (
    COMMON_CLASSES,
    INVALID,
    SEMANTIC_KITTI_TO_COMMON,
    ClassMap,
)
from scene_completion_ros.evaluation.semantic_completion import CompletionScores, SemanticCompletionMetric
from scene_completion_ros.evaluation.truth import ALL, INTERIORS, VoxelTruth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering.clusters import Clusters, fit_clusters
from scene_completion_training.evaluation.density_model import DensityModel
from scene_completion_training.evaluation.kitti import PRIOR_SIGMA
from scene_completion_training.evaluation.occupancy_run import exact_frames
from scene_completion_training.evaluation.semantic_models import SemanticModel, SemanticObservation, surface_points
from scene_completion_training.evaluation.tables import defined_values, percent, table

Naming = Literal["hungarian", "covering", "majority"]
_MATCHES: dict[Naming, Callable[[NDArray[np.integer[Any]]], NDArray[np.int64]]] = {
    "hungarian": match_one_to_one,
    "covering": match_covering,
    "majority": match_majority,
}
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
    def namings(self) -> tuple[Naming, ...]:
        """Ways to name its labels; all of them, with one result, where labels are classes."""

    @property
    def labels(self) -> int:
        """Labels that it predicts, "empty" among them."""

    def names(self, naming: Naming) -> NDArray[np.int64]:
        """The class [labels] of each label, "empty" first."""

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Labels of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""


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
    def namings(self) -> tuple[Naming, ...]:
        """Ways to name them: each class can only be covered where there are enough clusters."""
        enough = len(self.clusters.centres) >= len(COMMON_CLASSES) - 1
        return ("hungarian", "covering", "majority") if enough else ("hungarian", "majority")

    @property
    def labels(self) -> int:
        """Labels that it predicts: "empty" and the clusters."""
        return 1 + len(self.clusters.centres)

    def names(self, naming: Naming) -> NDArray[np.int64]:
        """The class [1 + K] of "empty" and of each cluster."""
        return match_occupied(self.confusion, _MATCHES[naming])

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
    return [
        dataclasses.replace(fitted, confusion=metric.confusion[NAMED_WITHIN])
        for fitted, metric in zip(nameless, score(nameless, labelled), strict=True)
    ]


class ClassPrior:
    """A control: of every voxel the class that is most frequent around it in labelled recordings, whatever it shows.

    Args:
        labelled: Training recordings with ground truth voxels on one grid.

    Raises:
        ConfigurationError: No frame is labelled.
    """

    name = "class prior of the voxel"
    labels = len(COMMON_CLASSES)
    namings: tuple[Naming, ...] = ("hungarian", "covering", "majority")

    def __init__(self, density: DensityModel, cutoff: float, labelled: Sequence[PosedSequence]) -> None:
        from scipy.ndimage import gaussian_filter

        self._density = density
        self._cutoff = cutoff
        found = [truth for _, _, truth in truths(labelled)]
        if not found:
            raise ConfigurationError(
                "no frame has ground truth voxels", where="labelled recordings", cure="Name some that have"
            )
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

    def names(self, naming: Naming) -> NDArray[np.int64]:
        """Its labels are classes."""
        return np.arange(self.labels)

    def predict(self, sequence: PosedSequence, index: int, truth: VoxelTruth) -> NDArray[np.uint8]:
        """Classes of the voxels that count in a frame: uint8 [X, Y, Z], 0 empty."""
        asked = truth.counted
        points = truth.centres(asked)
        occupied = self._density.observe(sequence, index).density(points) > self._cutoff
        place, _ = self._grid.index_of(self._grid_from_camera.apply(points[occupied].astype(np.float64)))
        place = np.clip(np.asarray(place), 0, np.array(self._grid.shape) - 1)  # beyond its grid, the class of its edge
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        volume.reshape(-1)[np.flatnonzero(asked.reshape(-1))[occupied]] = self._class[tuple(place.T)]
        return volume


def score(
    models: Sequence[ScoredModel], recordings: Sequence[PosedSequence], every: int = 1
) -> list[SemanticCompletionMetric]:
    """Counts the labels of each model against the classes of recordings, frame by frame; name them afterwards.

    Raises:
        ConfigurationError: No frame has ground truth voxels.
    """
    metrics: list[SemanticCompletionMetric] = []
    for sequence, index, truth in truths(recordings, every):
        metrics = metrics or [SemanticCompletionMetric(grid=truth.grid, labels=model.labels) for model in models]
        classes, counted = voxel_classes(truth), truth.regions[ALL]
        for model, metric in zip(models, metrics, strict=True):
            metric.update(model.predict(sequence, index, truth), classes, counted)
    if len(metrics) < len(models):
        raise ConfigurationError(
            "no frame has ground truth voxels",
            where=", ".join(sequence.name for sequence in recordings),
            cure="Name recordings that have",
        )
    return metrics


def truths(recordings: Sequence[PosedSequence], every: int = 1) -> Iterator[tuple[PosedSequence, int, VoxelTruth]]:
    """Frames of recordings that have ground truth voxels; a terminal shows how far it is."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    for sequence in tqdm(recordings, unit="recording", disable=None):
        for index, truth in exact_frames(sequence, every):
            yield sequence, index, truth


def voxel_classes(truth: VoxelTruth, class_map: ClassMap = SEMANTIC_KITTI_TO_COMMON) -> NDArray[np.uint8]:
    """Classes [X, Y, Z], the 15 of S4C by default; 255 where nothing is known, and inside of things no sensor sees."""
    inside = truth.regions_with_interiors.get(INTERIORS, np.zeros_like(truth.known))
    return class_map.apply(np.where(truth.known & ~inside, truth.labels, INVALID))


Results: TypeAlias = Mapping[tuple[str, str], tuple[ScoredModel, SemanticCompletionMetric]]
"""(recordings, model) -> the model and its counts."""


def markdown(results: Results) -> str:
    """A table for each set of recordings and each way of naming clusters, and one of the classes."""
    parts = []
    for group in dict.fromkeys(group for group, _ in results):
        for naming in get_args(Naming):
            rows, classes = [], []
            named = [found for (of, _), found in results.items() if of == group and naming in found[0].namings]
            if not named:
                continue
            for model, metric in named:
                scores = metric.compute(model.names(naming))
                rows.append([model.name, *_columns(scores)])
                largest = scores[max(scores)]
                classes.append([model.name, *map(percent, largest.class_iou.values())])
            ranges = sorted(scores)
            header = " / ".join(f"{range_m:g}" for range_m in ranges)
            titles = ("mIoU", "mIoU of present", "mIoU where found", "IoU")
            columns = ["method", *(f"{title}, {header} m" for title in titles)]
            parts.append(f"{group}, clusters named by {naming}, in percent\n\n{table(columns, rows)}")
            names = list(largest.class_iou)
            caption = f"{group}, clusters named by {naming}, IoU of classes at {max(ranges):g} m, in percent"
            parts.append(f"{caption}\n\n{table(['method', *names], classes)}")
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, arguments: dict[str, Any]) -> dict[str, Any]:
    """All scores, and the counts that they follow from."""
    entries = []
    for (group, name), (model, metric) in results.items():
        for naming in model.namings:
            names = model.names(naming)
            for range_m, scores in metric.compute(names).items():
                entry = {"recordings": group, "method": name, "naming": naming, "range_m": range_m}
                entries.append({**entry, "class_of_label": names.tolist(), **defined_values(asdict(scores))})
    return {"arguments": arguments, "scores": entries}


def _columns(scores: Mapping[float, CompletionScores]) -> list[str]:
    ordered = [scores[range_m] for range_m in sorted(scores)]
    return [
        " / ".join(percent(getattr(entry, name)) for entry in ordered)
        for name in ("mean_iou", "mean_iou_of_present", "mean_iou_of_found", "iou")
    ]
