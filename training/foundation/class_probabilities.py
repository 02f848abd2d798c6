"""A text-aligned teacher out of a segmentation network: class probabilities tied to embeddings of the class names.

The token of a cell is the mean over its pixels of Σ_c p(c) e(c), with the probability p(c) of class c and the embedding
e(c), of length 1, of its name in a sentence. Its cosine with other sentences then says which classes they are near to.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_training.foundation.backbone import ModelIdentity
from scene_completion_training.foundation.dense_extractor import DenseExtractor, check_images
from scene_completion_training.foundation.espnetv2 import CITYSCAPES_CLASSES, STRIDE, load_espnetv2
from scene_completion_training.foundation.model_files import IMAGENET_MEAN, IMAGENET_STD, Normalisation, sha256
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder, prompt

LONG_EDGE = 1024
"""Of the images that the network was trained with, pixels; others are resized to it."""


class ClassProbabilityTeacher(DenseExtractor):
    """ESPNetv2's probabilities of the classes of Cityscapes, as vectors in the space of a text encoder.

    Args:
        weights: Of ESPNetv2, see `load_espnetv2`.
        encoder: Gives the embeddings of the class names.
        template: Sentence that the names stand in.
        device: Where the network runs, in single precision.

    Raises:
        ConfigurationError: No such weights, or a template without a place for a phrase.
        BundleError: The weights are damaged, or of another network.
    """

    classes = CITYSCAPES_CLASSES

    def __init__(
        self, weights: str | Path, encoder: TextEncoder, template: str = STREET_TEMPLATE, device: str = "cpu"
    ) -> None:
        (mr, mg, mb), (dr, dg, db) = ([255.0 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
        super().__init__(encoder.dim, Normalisation((mr, mg, mb), (dr, dg, db)), device)
        network, self._file = load_espnetv2(weights)
        self._network = network.to(self._device)
        self._encoder, self._template = encoder, template
        self.embeddings = encoder.encode([prompt(name, template) for name in self.classes]).to(self._device)
        """float32 [20, D], of length 1, of the classes' names."""

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        return ModelIdentity(
            name=self._file.stem,
            type="espnetv2",
            weights={self._file.name: sha256(self._file)},
            layer=0,
            dim=self.dim,
            normalisation=self.normalisation,
            text_encoder=self._encoder.name,
            text_encoder_sha256=self._encoder.sha256,
            settings={"template": self._template, "long_edge": str(LONG_EDGE)},
        )

    @torch.no_grad()
    def class_probabilities(self, images: Tensor) -> Tensor:
        """Probabilities of the classes of every pixel.

        Args:
            images: RGB [B, 3, H, W] in 0..255, of any type.

        Returns:
            float32 [B, 20, H, W] on the network's device, in the order of `classes`; they sum to 1.

        Raises:
            ImageError: Images of another shape.
        """
        check_images(images)
        with torch.autocast(self._device.type, enabled=False):
            return self._probabilities(self._normalised(images.to(self._device).float()))

    def _probabilities(self, pixels: Tensor) -> Tensor:
        size = pixels.shape[-2:]
        scale = LONG_EDGE / max(size)
        inner = [STRIDE * max(1, -(-round(edge * scale) // STRIDE)) for edge in size]
        scores = self._network(functional.interpolate(pixels, inner, mode="bilinear", antialias=True))
        scores = functional.interpolate(scores, inner, mode="bilinear", align_corners=True)  # as it was trained
        return functional.interpolate(scores.softmax(dim=1), size, mode="bilinear", antialias=True)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        means = functional.adaptive_avg_pool2d(self._probabilities(pixels), (height, width))
        return torch.einsum("bchw,cd->bdhw", means, self.embeddings)
