"""Feature targets of images: variants with a shifted grid and mirrored, computed in the training or from a store.

Grids are shifted at random against the image, so that tokens land on arbitrary pixels (SceneDINO). A shift is (dy, dx),
multiples of an eighth of a cell in [−cell/2, cell/2). A token is rendered as 8 × 8 rays, which then stay on pixels of
the views they are compared with. Token (i, j) of a shifted image covers the rows [i·cell + dy, (i+1)·cell + dy) and the
columns [j·cell + dx, (j+1)·cell + dx) of the original.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.randomness import drawn

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Variant:
    """How an image is changed before its features are computed."""

    shift: tuple[int, int]  # (dy, dx) of the grid
    mirrored: bool  # swap left and right, before the shift


def random_shift(generator: np.random.Generator, cell: int) -> tuple[int, int]:
    """Draws (dy, dx), evenly, in steps of an eighth of a cell (of a pixel where cells are smaller than 8)."""
    step = max(1, cell // 8)
    dy, dx = step * generator.integers(-(cell // step // 2), cell // step - cell // step // 2, 2)
    return int(dy), int(dx)


def shifted(images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Images [..., H, W] whose pixel (r, c) is the original's (r + dy, c + dx), or the nearest on its edge."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + shift[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + shift[1]).clamp(0, width - 1)
    return images[..., rows[:, None], columns]


def variant_of(seed: int, key: str, number: int, cell: int) -> Variant:
    """Variant of an image, which follows from the arguments alone.

    Variant 0 is the image as it is. The others have random shifts; the odd ones are mirrored, so that two variants
    suffice for trainings that mirror whole scenes.
    """
    if number == 0:
        return Variant((0, 0), mirrored=False)
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return Variant(random_shift(np.random.default_rng((seed, name, number)), cell), mirrored=number % 2 == 1)


def variant_images(image: NDArray[np.uint8], variants: Sequence[Variant]) -> Tensor:
    """Variants uint8 [V, 3, H, W] of an image [H, W, 3]."""
    plain = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return torch.stack([shifted(plain.flip(-1) if v.mirrored else plain, v.shift) for v in variants])


def as_half(features: Tensor, key: str) -> Tensor:
    """Features as float16 on the CPU; a `ConfigurationError` if they are not numbers, or too large for it."""
    largest = features.abs().amax().item()
    if not largest <= LARGEST_HALF:  # also for NaN
        what = f"features up to {largest:g}, of which float16 holds {LARGEST_HALF:g} at most"
        raise ConfigurationError(what, where=key, cure="Choose another layer or model")
    return features.to("cpu", torch.float16)


class LiveTokens:
    """Tokens of the views of a batch that are computed in the training step, on its device (SceneDINO).

    The grid of each view is shifted at random, by any pixels up to half a cell. `cell`: edge of the square of pixels
    that a token covers.
    """

    def __init__(self, extractor: DenseExtractor, cell: int) -> None:
        self._extractor, self.cell = extractor, cell

    def __deepcopy__(self, memo: object) -> "LiveTokens":
        return self  # an average of the stage's weights needs no network of its own that never learns

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return self._extractor.dim

    def of(self, images: Tensor, views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What a sample holds of stored targets: features [B, V, D, h, w] and feature_offsets [B, V, 2].

        `images`: views [B, V, 3, H, W] in 0..1; `views`: indices [B, L] of those whose tokens are wanted; those of the
        others are zero; `generator`: on the CPU; draws the shifts.
        """
        self._extractor.to(images.device)
        half = self.cell // 2
        shifts = drawn(partial(torch.randint, -half, self.cell - half), (*views.shape, 2), generator)
        wanted = [
            (row, int(views[row, column]), shifts[row, column].tolist())
            for row in range(len(views))
            for column in range(views.shape[1])
        ]
        seen = torch.stack([shifted(images[row, view], (dy, dx)) for row, view, (dy, dx) in wanted])
        tokens = self._extractor.features(255.0 * seen, self.cell)
        features = tokens.new_zeros(*images.shape[:2], *tokens.shape[1:])
        offsets = torch.zeros(*images.shape[:2], 2, dtype=torch.int64, device=images.device)
        for token, (row, view, (dy, dx)) in zip(tokens, wanted, strict=True):
            features[row, view] = token
            offsets[row, view] = torch.tensor([dx, dy], device=images.device)
        return {"features": features, "feature_offsets": offsets}
