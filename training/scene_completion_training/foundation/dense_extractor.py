"""What all dense teachers share: images come in, cells are whole, colours are normalised, tokens go out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, ImageError
from scene_completion_training.foundation.model_files import Normalisation, sha256


@dataclass(frozen=True)
class ModelIdentity:
    """What features follow from, besides the image."""

    name: str  # name of the folder, or on the hub; for people, two names may mean the same model
    type: str  # type of the model, as in its configuration
    weights: dict[str, str]  # file -> SHA-256
    layer: int  # hidden state that is taken, 0 what goes into the first block
    dim: int
    normalisation: Normalisation
    # Name of the model whose sentences lie in the space of the features; empty where there is none.
    text_encoder: str = ""
    text_encoder_sha256: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # what else they follow from, name -> value


class DenseExtractor(ABC):
    """A frozen network that gives one token for each square of pixels: `dim` numbers of a hidden `layer`.

    `name`: of the model, for people; `weights`: files that were read; `device`: where it runs, in single precision.
    """

    type: str
    layer: int

    def __init__(self, name: str, weights: Sequence[Path], dim: int, normalisation: Normalisation, device: str) -> None:
        self.name, self._weights = name, weights
        self.dim, self.normalisation = dim, normalisation
        self._device = torch.device(device)
        self._mean, self._deviation = (
            torch.tensor(values, device=self._device)[:, None, None]
            for values in (normalisation.mean, normalisation.deviation)
        )

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        weights = {file.name: sha256(file) for file in self._weights}
        return ModelIdentity(self.name, self.type, weights, self.layer, self.dim, self.normalisation)

    def to(self, device: torch.device) -> None:
        """Moves its networks to another device."""
        if device != self._device:
            self._device = device
            for name, value in vars(self).items():
                if isinstance(value, Tensor | nn.Module):
                    setattr(self, name, value.to(device))

    @torch.no_grad()
    def features(self, images: Tensor, cell: int) -> Tensor:
        """Tokens of images; token (i, j) covers the pixels [i·cell, (i+1)·cell) × [j·cell, (j+1)·cell).

        Where the size of an image is no multiple of `cell`, its last row and column are repeated before. So every pixel
        is in a cell, and cells stay where they are. Returns float32 [B, D, ⌈H / cell⌉, ⌈W / cell⌉] on the network's
        device, not normalised in length. Raises ImageError: images of another shape; ConfigurationError: `cell` is not
        positive. `images`: RGB [B, 3, H, W] in 0..255, of any type; `cell`: edge of the square of pixels that a token
        covers.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageError(f"shape {tuple(images.shape)}", where="images", cure="Give [B, 3, H, W]")
        if cell < 1:
            raise ConfigurationError(f"{cell} pixels", where="cell", cure="Give at least 1")
        height, width = (-(-size // cell) for size in images.shape[-2:])
        # Lightning's mixed precision ends here: targets do not depend on how a network is trained on them.
        with torch.autocast(self._device.type, enabled=False):
            pixels = _enlarged(images.to(self._device).float(), cell, height, width)
            return self._tokens(self._normalised(pixels), height, width)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._deviation

    @abstractmethod
    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """Tokens [B, D, height, width] of normalised images [B, 3, height · cell, width · cell]."""


def in_patches(pixels: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Images resized (bilinear, antialiased) to so many patches."""
    size = (height * patch, width * patch)
    if pixels.shape[-2:] == size:
        return pixels
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def as_maps(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, height · width, D] as maps [B, D, height, width]."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def _enlarged(images: Tensor, cell: int, height: int, width: int) -> Tensor:
    """Images [B, 3, H, W] with their edge repeated to the right and below, to a whole number of cells."""
    right, below = width * cell - images.shape[-1], height * cell - images.shape[-2]
    return functional.pad(images, (0, right, 0, below), mode="replicate") if right or below else images
