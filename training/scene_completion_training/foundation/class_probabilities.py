"""A text-aligned teacher out of a segmentation network: class probabilities tied to embeddings of the class names.

The token of a cell is the mean over its pixels of `Σ_c p(c) e(c)`. p(c) is the probability of class c, and e(c) the
embedding, of length 1, of its name in a sentence. Its cosine with other sentences then says which classes they are near
to. A class may be described by several phrases: e(c) is then the direction of the mean of their embeddings.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import read_yaml
from scene_completion_training.foundation.dense_extractor import DenseExtractor, ModelIdentity
from scene_completion_training.foundation.espnetv2 import CITYSCAPES_CLASSES, STRIDE, ESPNetv2, load_espnetv2
from scene_completion_training.foundation.model_files import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder, prompt

LONG_EDGE = 1024  # of the images that the network was trained with, pixels; others are resized to it


def read_class_texts(file: Path) -> dict[str, tuple[str, ...]]:
    """Reads phrases that describe classes of Cityscapes, from YAML: class -> list of phrases.

    Raises ConfigurationError where it is no such file, or names a class that there is not.
    """
    content = read_yaml(file, ConfigurationError, cure="Write it as class_texts.yaml", kind=dict)
    found = {str(name): tuple(map(str, phrases)) for name, phrases in content.items() if isinstance(phrases, list)}
    wrong = sorted(set(map(str, content)) - {name for name in CITYSCAPES_CLASSES if found.get(name)})
    if wrong:
        cure = f"The classes are {', '.join(CITYSCAPES_CLASSES)}"
        raise ConfigurationError(f"{', '.join(wrong)}: no class, or no list of phrases", where=str(file), cure=cure)
    return found


def _probabilities(network: ESPNetv2, pixels: Tensor) -> Tensor:
    """Probabilities [B, 20, H, W] of the classes of normalised images [B, 3, H, W]."""
    size = pixels.shape[-2:]
    scale = LONG_EDGE / max(size)
    inner = [STRIDE * max(1, -(-round(edge * scale) // STRIDE)) for edge in size]
    scores = network(functional.interpolate(pixels, inner, mode="bilinear", antialias=True))
    scores = functional.interpolate(scores, inner, mode="bilinear", align_corners=True)  # as it was trained
    return functional.interpolate(scores.softmax(dim=1), size, mode="bilinear", antialias=True)


def city_segmentation(weights: str | Path) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What says the classes of pixels [H, W] of RGB images [H, W, 3]: Cityscapes' train ids, and 19 for none of them.

    It is ESPNetv2 with these weights, see `load_espnetv2`.
    """
    network = load_espnetv2(weights)[0]
    mean, deviation = (255.0 * torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def segment(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() - mean) / deviation
        with torch.no_grad():
            return _probabilities(network, pixels[None])[0].argmax(dim=0).to(torch.uint8).numpy()

    return segment


class ClassProbabilityTeacher(DenseExtractor):
    """ESPNetv2's probabilities of the classes of Cityscapes, as vectors in the space of a text encoder.

    Raises ConfigurationError: no such weights, or a template without a place for a phrase; BundleError where the
    weights are damaged, or of another network.
    """

    classes = CITYSCAPES_CLASSES
    type, layer = "espnetv2", 0

    def __init__(
        self,
        weights: str | Path,  # of ESPNetv2, see `load_espnetv2`
        encoder: TextEncoder,  # gives the embeddings of the class names
        template: str = STREET_TEMPLATE,  # sentence that the names stand in
        device: str = "cpu",  # where the network runs, in single precision
        # Class -> phrases that say what it is; its name alone where it is left out.
        described: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        (mr, mg, mb), (dr, dg, db) = ([255.0 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        network, file = load_espnetv2(weights)
        super().__init__(file.stem, [file], encoder.dim, Normalisation((mr, mg, mb), (dr, dg, db)), device)
        self._network = network.to(self._device)
        self._encoder, self._template = encoder, template
        self._described = dict(described or {})
        texts = [[prompt(phrase, template) for phrase in self._described.get(name, (name,))] for name in self.classes]
        means = torch.stack([encoder.encode(of_class).mean(dim=0) for of_class in texts])
        # float32 [20, D], of length 1, of what the classes are called.
        self.embeddings = functional.normalize(means, dim=-1).to(self._device)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        return dataclasses.replace(
            super().identity,
            text_encoder=self._encoder.name,
            text_encoder_sha256=self._encoder.sha256,
            settings={
                "template": self._template,
                "long_edge": str(LONG_EDGE),
                **{f"class {name}": ", ".join(phrases) for name, phrases in sorted(self._described.items())},
            },
        )

    def _probabilities(self, pixels: Tensor) -> Tensor:
        """Probabilities [B, 20, H, W] of the classes, in the order of `classes`, of normalised images [B, 3, H, W]."""
        return _probabilities(self._network, pixels)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        means = functional.adaptive_avg_pool2d(self._probabilities(pixels), (height, width))
        return torch.einsum("bchw,cd->bdhw", means, self.embeddings)
