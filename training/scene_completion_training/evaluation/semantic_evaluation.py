"""Unsupervised semantics against ground truth voxels: clusters, their names, and scores under S4C's protocol.

Predictors here give every point a vector and a density. Vectors are clustered on surfaces in training recordings,
without labels, or compared with words. Names of clusters come from labelled voxels of training recordings as well. Test
labels are only ever compared with.

Fields are read at the centres of voxels, or as SceneDINO (Jevtić et al., ICCV 2025) reads its own: it dilates the
density. A voxel is as dense as the densest of its 27 neighbours, itself among them. Its class is its own.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation import semantic_classes
from scene_completion_ros.evaluation.semantics import Match, SemanticTally, match_occupied, match_one_to_one
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_training.arrays import Bytes, Floats, Halves, Ints, Random
from scene_completion_training.checkpoints import Checkpoint, run_name
from scene_completion_training.clustering import Clusters, fit_clusters
from scene_completion_training.evaluation.checkpoints import CanonicalImages, in_chunks, observed_density
from scene_completion_training.evaluation.geometry import PRIOR_SIGMA, level_grid, voxel_frames
from scene_completion_training.evaluation.predictor import VOXEL_EDGE, Frame, Prediction, Predictor, voxel_classes
from scene_completion_training.evaluation.probes import LinearProbe
from scene_completion_training.foundation.backbone import DenseExtractor, FeatureLifter, TokenMaps
from scene_completion_training.networks import feature_field
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.feature_field import DistillationHead, FeatureField, FeatureObservation
from scene_completion_training.workers import accelerator

FARTHEST_SURFACE = 51.2  # pixels that see nothing within the largest range are not clustered, metres
_MEAN_EVERY = 5  # of each recording every so many frames give the mean of the tokens


class FeatureFieldModel(Predictor):
    """A trained feature field, clustered by its expanded features or by what a head makes of them."""

    def __init__(
        self,
        field: FeatureField,
        name: str,
        # The head of the second stage; without one the expanded features themselves are clustered.
        head: DistillationHead | None = None,
        *,
        # Its density decides what is occupied: the student that the field was made from, as it is deployed; the field's
        # own if left out.
        density: Predictor | None = None,
        half_resolution: bool = False,  # it was trained on images of half the size
        # Codes are the features of this one of its teachers, an agglomerated field's; of all of them if left out.
        teacher: str = "",
    ) -> None:
        self._teacher, self._density = teacher, density
        self.device = accelerator()
        self.field = field.eval().to(self.device)
        self.head = head.eval().to(self.device) if head is not None else None
        self.name = name
        self._image = CanonicalImages(field.camera, half_resolution)

    @staticmethod
    def open(path: Path, density: Predictor | None = None, teacher: str = "") -> "FeatureFieldModel":
        """Opens a checkpoint with a feature field, and its head where it has one; a `BundleError` if it has none."""
        stored = Checkpoint.read(path)
        field, head, half = stored.field_of(FeatureField), stored.distillation_head(), stored.half_resolution
        return FeatureFieldModel(field, run_name(path), head, density=density, half_resolution=half, teacher=teacher)

    def image(self, sequence: PosedSequence, index: int) -> Tensor:
        """The reference camera's image of a frame as the network sees it: RGB [3, H, W] in 0..255."""
        return self._image(sequence, index, reference_camera(sequence))

    @torch.inference_mode()
    def encode(self, image: Tensor) -> FeatureObservation:
        """The field that has seen an image [3, H, W] in 0..255."""
        return self.field.observe(image[None].to(self.device))

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Encode the reference camera's image of a frame."""
        name = reference_camera(sequence)
        seen = self.encode(self.image(sequence, index))
        if self._density is None:
            found = observed_density(seen, sequence.cameras[name], self.field.spec, self.device)
        else:
            found = self._density.complete(sequence, index)
        return replace(
            found,
            codes=lambda points: in_chunks(lambda p: self.codes(seen.features(p[None])[0]), points, self.device),
            units=lambda points: in_chunks(lambda p: seen.units(p[None])[0], points, self.device),
        )

    def codes(self, features: Tensor) -> Tensor:
        """Vectors [N, D], see `Prediction.codes`, of features [N, channels] of points, or composited along rays."""
        if self._teacher and isinstance(self.field, AgglomeratedField):
            return feature_field.normalised(self.field.original(self._teacher, features))
        return self.field.codes(features) if self.head is None else self.head(self.field.expand(features))


class LiftedTokens(Predictor):
    """A control, 2D only: every point has the token of the pixel that it projects to, whatever lies before it.

    `cell`: edge of the square of pixels that a token covers; `camera`: the canonical one of the other models;
    `less_mean_of`: recordings whose mean token is subtracted, as fields learn tokens: as they are they fall into worse
    clusters. Points beyond the image have its outermost token then, and otherwise none.
    """

    def __init__(
        self,
        extractor: DenseExtractor,
        density: Predictor,
        cell: int,
        camera: Camera,
        name: str,
        less_mean_of: Sequence[PosedSequence] | None = None,
    ) -> None:
        self.name, self._extractor, self._density, self._cell = name, extractor, density, cell
        self._image, self._lifter = CanonicalImages(camera, half_resolution=False), FeatureLifter(camera, VOXEL_EDGE)
        self._mean: Tensor | None = None
        if less_mean_of is not None:
            frames = [(each, k) for each in less_mean_of for k in range(0, len(each.frames), _MEAN_EVERY)]
            self._mean = torch.stack([self._tokens(*frame).mean(dim=(0, 2, 3)) for frame in frames]).mean(dim=0)

    def _tokens(self, sequence: PosedSequence, index: int) -> Tensor:
        image = self._image(sequence, index, reference_camera(sequence))
        return self._extractor.features(image[None], self._cell).float().cpu()

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Compute the tokens of the reference camera's image of a frame."""
        tokens, mean = self._tokens(sequence, index), self._mean
        maps = TokenMaps(tokens if mean is None else tokens - mean[:, None, None], torch.zeros(1, 2), self._cell)

        def codes(points: Tensor) -> Tensor:
            pixels, depth = self._lifter.pixels(points, torch.eye(4)[None])
            found = self._lifter.sampled(maps, 0, pixels[0])
            if mean is not None:
                return feature_field.normalised(found)
            return found * self._lifter.visible(pixels, depth, None)[0][:, None]

        return replace(self._density.complete(sequence, index), codes=lambda points: in_chunks(codes, points))


def codes_of(seen: Prediction, points: Floats) -> Floats:
    """The vectors [N, C] of points [N, 3] in a prediction that has some."""
    assert seen.codes is not None
    return seen.codes(points)


def surface_points(seen: Prediction, generator: Random, count: int) -> Floats:
    """Points [≤ count, 3] on surfaces that random pixels show, metres, optical frame; clusters are found among them.

    Most of what is occupied lies behind surfaces, where few views have trained the features.
    """
    camera = seen.camera
    pixels = generator.uniform((-0.5, -0.5), (camera.width - 0.5, camera.height - 0.5), (count, 2))
    depth = seen.depth(pixels)
    near = depth < FARTHEST_SURFACE
    rays = np.asarray(camera.unproject(pixels[near]))
    return np.asarray(rays / rays[:, 2:] * depth[near, None], np.float32)


# Codes [N, C] of points -> the number [N] of the cluster, or of the class without "empty", of each.
Assign: TypeAlias = Callable[[Floats], Ints]
_AT_ONCE = 1 << 15  # points whose codes are in memory at a time


@dataclass(frozen=True)
class Sampling:
    """From which density on a voxel is occupied."""

    cutoff: float  # density per metre that an occupied voxel exceeds, or reaches where it is dilated
    dilated: bool = False  # whether the density is that of the densest of the 27 voxels around

    def labelled(self, seen: Prediction, assign: Assign) -> Prediction:
        """A prediction whose voxels are labelled by their codes."""
        return replace(seen, labels=lambda truth: self.labels(seen, assign, truth))

    def labels(self, seen: Prediction, assign: Assign, truth: VoxelTruth) -> Bytes:
        """Labels of the voxels that count: uint8 [X, Y, Z], 0 where nothing is, number k as k + 1."""
        wanted = dilated(truth.counted.astype(np.float32)) > 0.0 if self.dilated else truth.counted
        density = np.zeros(truth.grid.shape, np.float32)
        density[wanted] = seen.density(truth.centres(wanted))
        reached = dilated(density) >= self.cutoff if self.dilated else density > self.cutoff
        occupied = reached & truth.counted
        points = truth.centres(occupied)
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        labels = np.zeros(len(points), np.uint8)
        for part in (slice(first, first + _AT_ONCE) for first in range(0, len(points), _AT_ONCE)):
            labels[part] = 1 + assign(codes_of(seen, points[part]))
        volume[occupied] = labels
        return volume


SCENEDINO = Sampling(0.2, dilated=True)  # as published


def dilated(density: Floats) -> Floats:
    """Largest density [X, Y, Z] of the 3x3x3 voxels around each voxel; there is nothing beyond the grid."""
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(density, size=3, mode="constant"), np.float32)


# The common class of each of Cityscapes' train ids.
CITYSCAPES = semantic_classes.CITYSCAPES_TO_COMMON.table[: len(semantic_classes.CITYSCAPES_CLASSES)].astype(np.int64)
NAMED_WITHIN = 51.2  # range in which clusters are named, metres: the largest


class ClassifiedModel(Predictor):
    """A model whose points have Cityscapes' classes by their codes."""

    def __init__(self, model: Predictor, sampling: Sampling, assign: Assign) -> None:
        self.name, self.model, self._sampling, self._assign = model.name, model, sampling, assign

    def names(self) -> Ints:
        """The class [1 + K] of "empty" and of each train id."""
        return np.concatenate([[semantic_classes.EMPTY], CITYSCAPES])

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """The prediction of the model, with number k as label k + 1."""
        return self._sampling.labelled(self.model.complete(sequence, index), self._assign)


class FittedModel(ClassifiedModel):
    """A model whose clusters have been found, and are its labels; labelled recordings name them, see `named_by`."""

    def __init__(self, model: Predictor, sampling: Sampling, clusters: Clusters, match: Match) -> None:
        super().__init__(model, sampling, clusters.assign)
        self.clusters, self._match = clusters, match  # how clusters get names, by default
        # Clusters against classes on the labelled recordings, int64 [1 + K, classes], empty first.
        self.confusion: Ints = np.zeros((0, 0), np.int64)

    @property
    def labels(self) -> int:
        """Labels that it predicts: "empty" and the clusters."""
        return 1 + len(self.clusters.centres)

    def names(self, match: Match | None = None) -> Ints:
        """The class [1 + K] of "empty" and of each cluster, see `class_confusion`."""
        return match_occupied(self.confusion, match or self._match)


def fit_models(
    models: Sequence[Predictor],
    sampling: Sampling,
    frames: Iterable[tuple[PosedSequence, int]],  # those of training recordings whose surfaces are clustered
    labelled: Iterable[Frame],  # frames of training recordings with ground truth voxels, for the names
    *,
    clusters: int = 19,
    points_a_frame: int = 500,
    seed: int = 0,
    match: Match = match_one_to_one,  # how clusters are named by them
) -> list[FittedModel]:
    """Finds clusters of points, the same for all models, and counts classes; a `ConfigurationError` if too few."""
    generators = [np.random.default_rng(seed) for _ in models]  # the same pixels for all
    codes: list[list[Floats]] = [[] for _ in models]  # of each model, those of each frame [≤ points_a_frame, C]
    for sequence, index in frames:
        for model, generator, found in zip(models, generators, codes, strict=True):
            seen = model.complete(sequence, index)
            found.append(codes_of(seen, surface_points(seen, generator, points_a_frame)))
    if not codes[0]:
        what = "no frame to cluster"
        raise ConfigurationError(what, where="clusters", cure="Name recordings and frames that are there")
    for model, found in zip(models, codes, strict=True):
        if not any(map(len, found)):
            raise no_surfaces(model, f"no pixel of {len(found)} frames shows one within {FARTHEST_SURFACE} m")
    fitted = [fit_clusters(np.concatenate(found), clusters, seed=seed) for found in codes]
    return named_by(models, sampling, fitted, labelled, match)


def named_by(
    models: Sequence[Predictor],
    sampling: Sampling,
    clusters: Sequence[Clusters],
    labelled: Iterable[Frame],
    match: Match = match_one_to_one,
) -> list[FittedModel]:
    """As `fit_models`, of clusters that are known: counts how those of each model fall together with classes."""
    fitted = [FittedModel(model, sampling, own, match) for model, own in zip(models, clusters, strict=True)]
    tallies = [SemanticTally(each) for each in fitted]
    for frame in labelled:
        for each, tally in zip(fitted, tallies, strict=True):
            tally.add(each.answer(frame))
    for each, tally in zip(fitted, tallies, strict=True):
        if not tally.frames:
            raise no_voxels("labelled recordings")
        each.confusion = tally.confusion[NAMED_WITHIN]
        if not each.confusion[1:].any():
            what = f"no voxel in view of {tally.frames} labelled frames has a density of {sampling.cutoff:g} per metre"
            raise no_surfaces(each, what)
    return fitted


def no_voxels(recordings: Sequence[PosedSequence] | str) -> ConfigurationError:
    """That no frame of recordings has ground truth voxels."""
    where = recordings if isinstance(recordings, str) else ", ".join(sequence.name for sequence in recordings)
    return ConfigurationError("no frame has ground truth voxels", where=where, cure="Name recordings that have")


def no_surfaces(model: Predictor, what: str) -> ConfigurationError:
    """That a model's density has no surfaces, on which clusters are found and named."""
    cure = "Train it for more steps: it is that of --student, or, for a checkpoint of semantics, that of features_from"
    return ConfigurationError(f"its density has no surfaces: {what}", where=model.name, cure=cure)


class ClassPrior(Predictor):
    """A control: the class most frequent around each voxel in labelled recordings, a `ConfigurationError` for none."""

    name = "class prior of the voxel"

    def __init__(self, density: Predictor, cutoff: float, labelled: Sequence[PosedSequence]) -> None:
        from scipy.ndimage import gaussian_filter

        self._density, self._cutoff = density, cutoff
        found = [frame.voxels for frame in voxel_frames(labelled)]
        if not found:
            raise no_voxels(labelled)
        self._grid, self._grid_from_camera = found[0].grid, found[0].grid_from_camera
        self._classes = len(found[0].class_map.target)
        classes = [voxel_classes(truth) for truth in found]
        best = np.zeros(self._grid.shape, np.float32)
        self._class = np.ones(self._grid.shape, np.uint8)
        for number in range(1, self._classes):
            share = np.mean([volume == number for volume in classes], axis=0, dtype=np.float32)
            if share.any():
                smooth = gaussian_filter(share, PRIOR_SIGMA)
                self._class[smooth > best] = number
                best = np.maximum(best, smooth)

    def names(self) -> Ints:
        """Its labels are classes."""
        return np.arange(self._classes)

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """The density, with the class of each place."""
        seen = self._density.complete(sequence, index)
        pose = level_grid(sequence, index) or self._grid_from_camera

        def labels(truth: VoxelTruth) -> Bytes:
            points = truth.centres(truth.counted)
            occupied = seen.density(points) > self._cutoff
            place, _ = self._grid.index_of(pose.apply(points[occupied].astype(np.float64)))
            place = np.clip(np.asarray(place), 0, np.array(self._grid.shape) - 1)  # beyond it, the class of its edge
            volume = np.zeros(truth.grid.shape, dtype=np.uint8)
            volume.reshape(-1)[np.flatnonzero(truth.counted.reshape(-1))[occupied]] = self._class[tuple(place.T)]
            return volume

        return dataclasses.replace(seen, labels=labels)


def open_probed(path: Path, probe_file: Path, density: Predictor | None, sampling: Sampling) -> ClassifiedModel:
    """Opens a feature field with a linear probe that `evaluate segmentation` trained on images: classes of points.

    Raises BundleError where the checkpoint holds no field; ConfigurationError where the file holds no probe of it.
    """
    probe, model = LinearProbe.read(probe_file), FeatureFieldModel.open(path, density=density)
    size = probe.weight.shape[1]
    if size == model.field.target_size:
        model.head = None
    elif model.head is None or size != model.head.linear.out_features:
        what = f"is for features of size {size}, which {path} has not"
        raise ConfigurationError(what, where=str(probe_file), cure="Name its own probe")
    model.name = f"{model.name}, probe of {'head' if model.head else 'features'}"
    return ClassifiedModel(model, sampling, probe.labels)


def survey(
    model: Predictor, recordings: Sequence[PosedSequence], *, every: int, points_a_frame: int
) -> tuple[Floats, Halves]:
    """Codes of length one, float32 [N, C], and hidden units, float16 [N, E], of points on the surfaces of recordings.

    Of every so many-th frame so many pixels are taken. Raises ConfigurationError where none shows a surface.
    """
    generator = np.random.default_rng(0)
    parts: list[tuple[Floats, Halves]] = []
    for sequence in recordings:
        for index in range(0, len(sequence), every):
            seen = model.complete(sequence, index)
            points = surface_points(seen, generator, points_a_frame)
            assert seen.units is not None  # a feature field has some
            parts.append((codes_of(seen, points), seen.units(points).astype(np.float16)))
    if not any(len(codes) for codes, _ in parts):
        raise no_surfaces(model, f"no pixel of {len(parts)} frames shows one within {FARTHEST_SURFACE} m")
    codes, units = (np.concatenate(column) for column in zip(*parts, strict=True))
    return codes, units
