"""Whether features look the same from two views: those of feature fields beside the tokens they have learned from.

SceneDINO's measure with depth and poses in place of optical flow, see
`scene_completion_ros.evaluation.feature_consistency`. A field sees each image alone and is rendered to the pixels of
that same image; tokens are enlarged bilinearly. Both lie in the space of the tokens and have length one, and both are
compared at the same pixels. A field that has learned tokens less their mean stands beside tokens less that mean, too.

A feature that is the same everywhere is perfectly consistent. So the cosine of unrelated pixels of the same pair stands
beside: what counts is how far the two are apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.feature_consistency import warp_from_depth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import nearest_pixels
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera, stereo_pair
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data.prepared import world_mask
from scene_completion_training.data.stereo import measured_depth
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.rendering.depth import render_features

LATER, PARTNER = "{step} frames later", "stereo partner"
TOKENS = "tokens of the image"


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views, and the pixels of the first in the second.

    Attributes:
        kind: What the second is to the first.
        first: Frame and camera.
        second: Frame and camera.
        warp: Pixels (u, v) of the second view, float64 [H, W, 2], of the pixels of the first.
        unrelated: The same, but each valid pixel is led to where another one, drawn at random, belongs.
        valid: bool [H, W], pixels whose point both views see.
    """

    sequence: PosedSequence
    kind: str
    first: tuple[int, str]
    second: tuple[int, str]
    warp: NDArray[np.float64]
    unrelated: NDArray[np.float64]
    valid: NDArray[np.bool_]


def view_pairs(
    recordings: Iterable[PosedSequence], camera: Camera, *, step: int, every: int, seed: int = 0
) -> Iterator[ViewPair]:
    """Pairs of each `every`-th frame: its reference view with that some frames later, and with its stereo partner.

    Those without a common pixel are left out.

    Raises:
        SequenceError: A view has no depth.
    """
    generator = np.random.default_rng(seed)
    for sequence in recordings:
        names = views_ahead(sequence)
        depth = lru_cache(maxsize=2 * step + 2)(partial(view_depth, sequence, camera=camera))
        for index in range(0, len(sequence), every):
            first = (index, names[0])
            others = {LATER.format(step=step): (index + step, names[0])} if index + step < len(sequence) else {}
            if len(names) == 2 and names[1] in sequence.frames[index].images:
                others[PARTNER] = (index, names[1])
            for kind, second in others.items():
                pose = sequence.world_from_camera(*second).inverse() @ sequence.world_from_camera(*first)
                warp, valid = warp_from_depth(depth(*first), depth(*second), camera, camera, pose)
                if valid.any():
                    unrelated = warp.copy()
                    unrelated[valid] = generator.permutation(warp[valid])
                    yield ViewPair(sequence, kind, first, second, warp, unrelated, valid)


def views_ahead(sequence: PosedSequence) -> tuple[str, ...]:
    """The cameras of the stereo pair, left first; the reference camera alone where there is no pair."""
    try:
        return stereo_pair(sequence)[:2]
    except SequenceError:
        return (reference_camera(sequence),)


def view_depth(sequence: PosedSequence, index: int, name: str, camera: Camera) -> NDArray[np.float32]:
    """z-depth [H, W] that the recording knows of a view, resampled into a camera at the same place.

    Args:
        name: The camera: the reference camera, or the right one of the stereo pair.
        camera: The camera to resample into, by the nearest pixel.

    Returns:
        float32 [H, W], metres; 0 where it is unknown or the view shows the vehicle itself, not finite in the sky.

    Raises:
        SequenceError: There is neither exact depth nor a stereo pair.
    """
    exact = sequence.asset(index, "depth") if name == reference_camera(sequence) else None
    if exact is None:
        depth = measured_depth(sequence, index, "right" if name == stereo_pair(sequence)[1] else "left")
    else:
        depth = np.asarray(exact, np.float32)
    mask = world_mask(sequence, index, name)
    if mask is not None:
        depth = np.where(mask > 0, depth, np.float32(0.0))
    row, column, inside = nearest_pixels(sequence.cameras[name], camera)
    return np.where(inside, depth[row, column], np.float32(0.0))


class FeatureImages(Protocol):
    """Anything that gives the pixels of a view features."""

    @property
    def name(self) -> str:
        """Short name for tables."""

    def features(self, sequence: PosedSequence, index: int, name: str) -> NDArray[np.float32]:
        """Features [D, H, W] of a camera's image, of any length, at the resolution that is compared."""


@dataclass(frozen=True, eq=False)
class ComparedViews:
    """Features [D, H, W] of both views of a pair, see `FEATURES`."""

    pair: ViewPair
    first: NDArray[np.float32]
    second: NDArray[np.float32]


class Compared:
    """Features of images as a method that is scored; those of the last frames are remembered."""

    def __init__(self, images: FeatureImages, step: int) -> None:
        self.name = images.name
        self._features = lru_cache(maxsize=2 * step + 2)(images.features)

    def answer(self, pair: ViewPair) -> ComparedViews:
        """Look at both views of a pair."""
        return ComparedViews(pair, *(self._features(pair.sequence, *view) for view in (pair.first, pair.second)))


class FieldFeatures:
    """What a feature field that sees an image makes of it, rendered to its own pixels.

    Args:
        camera: Its canonical camera at the resolution that is compared.
        half_resolution: It was trained on images of half the size.
    """

    def __init__(self, field: FeatureField, name: str, camera: Camera, *, half_resolution: bool = False) -> None:
        self.name = name
        self.field = field.eval()
        self._camera = camera
        self._image = CanonicalImages(field.camera, half_resolution)

    @staticmethod
    def open(path: Path, stride: int) -> FieldFeatures:
        """Opens a checkpoint of stage `feature_field` or `semantics`, to compare every so many-th pixel of its camera.

        Raises:
            BundleError: It is none of these.
            ConfigurationError: The stride does not divide the image.
        """
        stored = Checkpoint.read(path)
        field = stored.field_of(FeatureField)
        camera = compared_camera(field.camera, stride)
        return FieldFeatures(field, path.resolve().parent.parent.name, camera, half_resolution=stored.half_resolution)

    def features(self, sequence: PosedSequence, index: int, name: str) -> NDArray[np.float32]:
        """Features [D, H, W] of a camera's image, composited along its rays and expanded."""
        with torch.inference_mode():
            seen = self.field.observe(self._image(sequence, index, name)[None])
            return np.asarray(render_features(seen, self._camera).numpy(), np.float32)


class TokenFeatures:
    """The tokens of a 2D foundation model, bilinearly enlarged.

    Args:
        cell: Edge of the square of pixels of the canonical image that a token covers.
        camera: The same at the resolution that is compared.
        mean: Taken from each token [D]; nothing if left out.
    """

    def __init__(
        self,
        backbone: Backbone,
        cell: int,
        full: Camera,
        camera: Camera,
        name: str = TOKENS,
        *,
        mean: Tensor | None = None,
    ) -> None:
        self.name = name
        self._mean = torch.zeros(1) if mean is None else mean
        self._backbone = backbone
        self._cell = cell
        self._size = (camera.height, camera.width)
        self._image = CanonicalImages(full, half_resolution=False)

    def features(self, sequence: PosedSequence, index: int, name: str) -> NDArray[np.float32]:
        """Features [D, H, W] of a camera's image."""
        tokens = self._backbone.features(self._image(sequence, index, name)[None], self._cell).float().cpu()
        tokens = tokens - self._mean[:, None, None]
        enlarged = functional.interpolate(tokens, self._size, mode="bilinear", align_corners=False)
        return np.asarray(enlarged[0].numpy(), np.float32)


def token_rows(
    fields: Sequence[FieldFeatures], backbone: Backbone, cell: int, full: Camera, camera: Camera
) -> list[TokenFeatures]:
    """What stands beside fields: the tokens as they are, and less each mean that a field has learned them without.

    Raises:
        ConfigurationError: A field has learned features of another dimension.
    """
    rows = [TokenFeatures(backbone, cell, full, camera)]
    means: list[Tensor] = [torch.zeros(backbone.dim)]
    for field in fields:
        mean = field.field.target_mean
        if len(mean) != backbone.dim:
            raise ConfigurationError(
                f"{field.name} has features of {len(mean)} numbers, the tokens have {backbone.dim}",
                where="--foundation",
                cure="Name the model that the field has learned from",
            )
        if not any(torch.equal(mean, known) for known in means):
            means.append(mean)
            rows.append(
                TokenFeatures(backbone, cell, full, camera, f"{TOKENS}, less the mean of {field.name}", mean=mean)
            )
    return rows


def compared_camera(canonical: Camera, stride: int) -> Camera:
    """A camera with one pixel for stride by stride; a `ConfigurationError` if that does not divide the image."""
    width, height = canonical.width, canonical.height
    if stride < 1 or width % stride or height % stride:
        raise ConfigurationError(
            f"{stride} pixels", where="stride", cure=f"Take a positive number that divides {width} and {height}"
        )
    return canonical.resized(width // stride, height // stride)
