"""Predictors that give, beside a density, a vector to every point: what is clustered, or asked for words.

Fields are read at the centres of voxels, or as S4C (Hayler et al., 3DV 2024) and SceneDINO (Jevtić et al., ICCV 2025)
read theirs. Both dilate the density: a voxel is as dense as the densest of its 27 neighbours, itself among them. Its
class is its own. Each point votes for its class, with the opacity of its part of the voxel as weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import Camera
from scene_completion_ros.sequences.posed_sequence import PosedSequence, reference_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.arrays import Bytes, Floats, Mask, Random
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.evaluation.checkpoints import CanonicalImages, in_chunks, observed_density
from scene_completion_training.evaluation.predictor import Prediction, Predictor
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.feature_field import (
    DistillationHead,
    FeatureField,
    FeatureObservation,
    normalised,
)
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
        # Whose density says what is occupied: the student that the field was made from, as it is deployed; the field's
        # own if left out.
        density: Predictor | None = None,
        half_resolution: bool = False,  # it was trained on images of half the size
        # Codes are the features of this one of its teachers, an agglomerated field's; of all of them if left out.
        teacher: str = "",
    ) -> None:
        known = field.teachers if isinstance(field, AgglomeratedField) else ()
        if teacher and teacher not in known:
            cure = f"There are {', '.join(known)}" if known else "Leave it out"
            raise ConfigurationError(f"no teacher {teacher}", where=name, cure=cure)
        self._teacher, self._density = teacher, density
        self.device = accelerator()
        self.field = field.eval().to(self.device)
        self.head = head.eval().to(self.device) if head is not None else None
        self.name = name
        self._image = CanonicalImages(field.camera, half_resolution)

    @staticmethod
    def open(
        path: Path,
        name: str | None = None,  # short name for tables; that of the run if left out
        density: Predictor | None = None,
        # Which feature field: `SemanticField` for one that has learned from labels, whose codes are logits.
        kind: type[FeatureField] = FeatureField,
        teacher: str = "",
    ) -> "FeatureFieldModel":
        """Opens a checkpoint with a feature field, and its head where it has one; a `BundleError` if it has none."""
        stored = Checkpoint.read(path)
        field, head, half = stored.field_of(kind), stored.distillation_head(), stored.half_resolution
        name = name or path.resolve().parent.parent.name
        return FeatureFieldModel(field, name, head, density=density, half_resolution=half, teacher=teacher)

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
            return normalised(self.field.original(self._teacher, features))
        return self.field.codes(features) if self.head is None else self.head(self.field.expand(features))


class LiftedTokens(Predictor):
    """A control: every point has the token (of so many pixels) of its pixel, as if no field had been trained.

    Tokens are taken less their mean over recordings, as fields learn them: as they are they fall into worse clusters.
    The camera is the canonical one of the models that it stands beside.
    """

    def __init__(
        self,
        backbone: Backbone,
        density: Predictor,
        cell: int,
        name: str,
        recordings: Sequence[PosedSequence],
        camera: Camera,
    ) -> None:
        self.name, self._camera, self._backbone, self._density = name, camera, backbone, density
        self._cell = cell
        self._image = CanonicalImages(camera, half_resolution=False)
        frames = [(each, index) for each in recordings for index in range(0, len(each.frames), _MEAN_EVERY)]
        self._mean = torch.stack([self._tokens(*frame).mean(dim=(0, 2, 3)) for frame in frames]).mean(dim=0)

    def _tokens(self, sequence: PosedSequence, index: int) -> Tensor:
        image = self._image(sequence, index, reference_camera(sequence))
        return self._backbone.features(image[None], self._cell).float()

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Compute the tokens of the reference camera's image of a frame."""
        tokens = self._tokens(sequence, index) - self._mean[:, None, None]
        seen = self._density.complete(sequence, index)
        return replace(seen, codes=lambda points: in_chunks(lambda p: _tokens_at(tokens, p, self._camera), points))


def _tokens_at(tokens: Tensor, points: Tensor, camera: Camera) -> Tensor:
    """Tokens [1, D, h, w] at the pixels that points [N, 3] project to, bilinear, of length one [N, D]."""
    depth = points[:, 2].clamp_min(1e-3)
    x = (2.0 * (camera.fx * points[:, 0] / depth + camera.cx) + 1.0) / camera.width - 1.0
    y = (2.0 * (camera.fy * points[:, 1] / depth + camera.cy) + 1.0) / camera.height - 1.0
    grid = torch.stack([x, y], dim=-1)[None, None].clamp(-2.0, 2.0)
    sampled = functional.grid_sample(tokens, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return normalised(sampled[0, :, 0].T)


def codes_of(seen: Prediction, points: Floats) -> Floats:
    """The vectors [N, C] of points [N, 3] in a prediction that has some."""
    assert seen.codes is not None
    return seen.codes(points)


def surface_points(seen: Prediction, generator: Random, count: int) -> Floats:
    """Points [≤ count, 3] on surfaces that random pixels show, metres, optical frame; clusters are found among them.

    Most of what is occupied lies behind surfaces, where few views have told the features what to be.
    """
    camera = seen.camera
    pixels = generator.uniform((-0.5, -0.5), (camera.width - 0.5, camera.height - 0.5), (count, 2))
    depth = seen.depth(pixels)
    near = depth < FARTHEST_SURFACE
    rays = np.asarray(camera.unproject(pixels[near]))
    return np.asarray(rays / rays[:, 2:] * depth[near, None], np.float32)


# Codes [N, C] of points -> how much each [N, K] is of each cluster, or of each class without "empty".
Votes: TypeAlias = Callable[[Floats], Floats]
_VOTING = 1 << 15  # points whose codes are in memory at a time


@dataclass(frozen=True)
class Sampling:
    """Points of a voxel, and from which density on it is occupied."""

    cutoff: float  # density per metre that an occupied voxel exceeds, or reaches where it is dilated
    points: int = 1  # points along each edge of a voxel, evenly, each in the middle of its part
    dilated: bool = False  # whether the density is that of the densest of the 27 voxels around

    def labelled(self, seen: Prediction, votes: Votes) -> Prediction:
        """A prediction whose voxels are labelled by votes."""
        return replace(seen, labels=lambda truth: self.labels(seen, votes, truth))

    def labels(self, seen: Prediction, votes: Votes, truth: VoxelTruth) -> Bytes:
        """Labels of the voxels that count: uint8 [X, Y, Z], 0 where nothing is, what is most of k as k + 1."""
        wanted = dilated(truth.counted.astype(np.float32)) > 0.0 if self.dilated else truth.counted
        sigma = seen.density(self._points(truth, wanted)).reshape(-1, self.points**3)
        density = np.zeros(truth.grid.shape, np.float32)
        density[wanted] = sigma.max(axis=1)
        reached = dilated(density) >= self.cutoff if self.dilated else density > self.cutoff
        occupied = reached & truth.counted
        weights, step = opacity(sigma[occupied[wanted]], truth.grid.voxel_size / self.points), _VOTING // self.points**3
        points = self._points(truth, occupied).reshape(*weights.shape, 3)
        volume = np.zeros(truth.grid.shape, dtype=np.uint8)
        labels = np.zeros(len(points), np.uint8)
        for part in (slice(first, first + step) for first in range(0, len(points), step)):
            labels[part] = 1 + elected(votes(codes_of(seen, points[part].reshape(-1, 3))), weights[part])
        volume[occupied] = labels
        return volume

    def _points(self, truth: VoxelTruth, voxels: Mask) -> Floats:
        """Points [V · points³, 3] of voxels [X, Y, Z], in their order, metres, optical frame of the camera."""
        part = (np.indices((self.points,) * 3).reshape(3, -1).T + 0.5) / self.points
        place = np.argwhere(voxels)[:, None] + part
        points = np.asarray(truth.grid.origin) + place.reshape(-1, 3) * truth.grid.voxel_size
        return np.asarray(truth.grid_from_camera.inverse().apply(points), np.float32)


SAMPLINGS = {"scenedino": Sampling(0.2, dilated=True), "s4c": Sampling(0.25, points=2, dilated=True)}  # as published


def dilated(density: Floats) -> Floats:
    """Largest density [X, Y, Z] of the 3x3x3 voxels around each voxel; there is nothing beyond the grid."""
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(density, size=3, mode="constant"), np.float32)


def elected(votes: Floats, weights: Floats) -> Bytes:
    """The label [V] with most weight, by votes [V · P, K] and weights [V, P]; points weigh alike where all are 0."""
    weighed = np.where(weights.any(axis=1, keepdims=True), weights, 1.0)
    return np.asarray(np.einsum("vpk,vp->vk", votes.reshape(*weights.shape, -1), weighed).argmax(axis=1), np.uint8)
