"""Feature targets of images: variants with a shifted grid and mirrored, computed in the training or from a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.data.feature_targets import FeatureTarget
from scene_completion_training.foundation.grid_shift import random_shift, shifted

LARGEST_HALF = 65504.0


class FeatureExtractor(Protocol):
    """A network that has one token for each square of pixels."""

    @property
    def dim(self) -> int:
        """Dimension of the features."""

    def features(self, images: Tensor, cell: int) -> Tensor:
        """Tokens [B, D, ⌈H / cell⌉, ⌈W / cell⌉] of RGB images [B, 3, H, W] in 0..255."""


@dataclass(frozen=True)
class Variant:
    """How an image is changed before its features are computed.

    Attributes:
        shift: (dy, dx) of the grid.
        mirrored: Swap left and right, before the shift.
    """

    shift: tuple[int, int]
    mirrored: bool


def variant_of(seed: int, key: str, number: int, cell: int) -> Variant:
    """Variant of an image, which follows from the arguments alone.

    Variant 0 is the image as it is. The others have random shifts; the odd ones are mirrored, so that two variants
    suffice for trainings that mirror whole scenes.
    """
    if number == 0:
        return Variant((0, 0), mirrored=False)
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return Variant(random_shift(np.random.default_rng((seed, name, number)), cell), mirrored=number % 2 == 1)


def check_variant(number: int, variants: int) -> None:
    """Refuses a variant that there is not.

    Raises:
        ConfigurationError: There are fewer.
    """
    if not 0 <= number < variants:
        raise ConfigurationError(
            f"no variant {number}, there are 0 to {variants - 1}",
            where="feature targets",
            cure="Ask for fewer variants, or compute more of them",
        )


def variant_images(image: NDArray[np.uint8], variants: Sequence[Variant]) -> Tensor:
    """Variants uint8 [V, 3, H, W] of an image [H, W, 3]."""
    plain = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return torch.stack([shifted(plain.flip(-1) if v.mirrored else plain, v.shift) for v in variants])


def as_half(features: Tensor, key: str) -> Tensor:
    """Features as float16 on the CPU.

    Raises:
        ConfigurationError: They are not numbers, or too large for it.
    """
    largest = features.abs().amax().item()
    if not largest <= LARGEST_HALF:  # also for NaN
        raise ConfigurationError(
            f"features up to {largest:g}, of which float16 holds {LARGEST_HALF:g} at most",
            where=key,
            cure="Choose another layer or model",
        )
    return features.to("cpu", torch.float16)


class LiveTargets:
    """Features that are computed when they are asked for.

    Args:
        extractor: The network.
        cell: Edge of the square of pixels that a token covers.
        variants: Number of variants of an image.
        seed: Seed of the shifts.
    """

    def __init__(self, extractor: FeatureExtractor, cell: int, variants: int, seed: int = 0) -> None:
        self._extractor = extractor
        self.cell = cell
        self.variants = variants
        self.seed = seed

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return self._extractor.dim

    def get(self, key: str, image: NDArray[np.uint8], variant: int) -> FeatureTarget:
        """Features of a variant of an image, see `FeatureTargets.get`."""
        check_variant(variant, self.variants)
        chosen = variant_of(self.seed, key, variant, self.cell)
        features = self._extractor.features(variant_images(image, [chosen]), self.cell)
        return FeatureTarget(as_half(features[0], key), chosen.shift, chosen.mirrored)
