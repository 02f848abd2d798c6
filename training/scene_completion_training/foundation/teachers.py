"""Teachers by name, one word for each network: among them image towers of CLIP and SigLIP.

The towers are trained so that one vector of the whole image lies near its sentence. Their last attention mixes the
values of patches, and the values of each patch alone lie in the same space. That is MaskCLIP: Zhou, Loy and Dai, ECCV
2022, https://arxiv.org/abs/2112.01071.
"""

import dataclasses
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.removed import removed
from scene_completion_training.foundation import model_files
from scene_completion_training.foundation.backbone import Backbone, DenseExtractor, ModelIdentity, as_maps, in_patches
from scene_completion_training.foundation.class_probabilities import NAMES, ClassProbabilityTeacher
from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TO_UNIT = (0.5, 0.5, 0.5)


class _ImageTower(DenseExtractor):
    """An image tower, with the text tower of the same model as its text encoder; see `load_network` for errors."""

    _dim_key: str  # what its configuration calls the dimension of the text space

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self._model = str(model)
        folder = model_files.description_folder(self._model)
        config = model_files.read_config(folder)
        files = model_files.weight_files(self._model)
        self.type = str(config.get("model_type"))
        name, part, normalisation = self._of_type(folder, config)
        network = model_files.frozen_network(name, part, files, attn_implementation="sdpa")
        dim = int(getattr(network.config, self._dim_key))
        super().__init__(model_files.model_name(self._model), files, dim, normalisation, device)
        self.layer = int(network.config.num_hidden_layers)
        self._network = network.to(self._device)
        self._patch = int(network.config.patch_size)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        of_texts = model_files.joint_sha256(self._weights)
        return dataclasses.replace(super().identity, text_encoder=self.name, text_encoder_sha256=of_texts)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        return as_maps(self._patches(in_patches(pixels, self._patch, height, width)), height, width)

    @abstractmethod
    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], model_files.Normalisation]:
        """Class of transformers, its configuration and what it expects of its input."""

    @abstractmethod
    def _patches(self, pixels: Tensor) -> Tensor:
        """Vectors [B, N, D] of the patches in the text space."""


class ClipTeacher(_ImageTower):
    """CLIP's image tower with MaskCLIP's last block: values, out projection without residual, norm, projection."""

    _dim_key = "projection_dim"

    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], model_files.Normalisation]:
        part = model_files.config_part(config, "vision_config", self._model)
        part |= {name: config[name] for name in ("projection_dim",) if name in config}
        return "CLIPVisionModelWithProjection", part, model_files.read_normalisation(folder, _CLIP_MEAN, _CLIP_STD)

    def _patches(self, pixels: Tensor) -> Tensor:
        tower = self._network.vision_model
        states = tower(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = tower.encoder.layers[-1]
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states[-2])))
        vectors: Tensor = self._network.visual_projection(tower.post_layernorm(values))
        return vectors[:, 1:]


class SiglipTeacher(_ImageTower):
    """SigLIP's image tower, or SigLIP 2's: each patch alone goes through its pooling (out projection and MLP)."""

    _dim_key = "hidden_size"

    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], model_files.Normalisation]:
        name = "Siglip2VisionModel" if self.type == "siglip2" else "SiglipVisionModel"
        part = model_files.config_part(config, "vision_config", self._model)
        if not part.get("vision_use_head", True):
            what = "has no pooling, so its patches have no way to the text space"
            raise ConfigurationError(what, where=self._model, cure="Name another")
        return name, part, model_files.read_normalisation(folder, _TO_UNIT, _TO_UNIT)

    def _patches(self, pixels: Tensor) -> Tensor:
        if self.type == "siglip2":  # takes patches of any number of rows and columns
            size, rows, columns = self._patch, *(edge // self._patch for edge in pixels.shape[-2:])
            cut = pixels.reshape(len(pixels), 3, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
            given: dict[str, Any] = {
                "pixel_values": cut.reshape(len(pixels), rows * columns, -1),
                "pixel_attention_mask": torch.ones(len(pixels), rows * columns, device=pixels.device),
                "spatial_shapes": torch.tensor([[rows, columns]] * len(pixels), device=pixels.device),
            }
        else:
            given = {"pixel_values": pixels, "interpolate_pos_encoding": True}
        states: Tensor = self._network(**given).last_hidden_state
        head = self._network.head
        attention = head.attention
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        values: Tensor = attention.out_proj(functional.linear(states, weight, bias))
        return values + head.mlp(head.layernorm(values))  # type: ignore[no-any-return]


_ESPNETV2 = "espnetv2:"
_IMAGE_TEXT: dict[str, type[_ImageTower]] = {"clip": ClipTeacher, "siglip": SiglipTeacher, "siglip2": SiglipTeacher}


def open_teacher(
    # `espnetv2:FILE_OR_FOLDER`; or a local folder, or a name on the hub, of a DINO, DINOv2, DINOv3, Depth Anything,
    # CLIP or SigLIP: see its configuration.
    spec: str,
    # Hidden state that is taken, of transformers of the DINO family and Depth Anything, see `Backbone`.
    layer: int = -1,
    device: str = "cpu",  # where it runs
    *,
    # Folder or hub name of the text encoder that the class names of ESPNetv2 are tied to.
    text_encoder: str | None = None,
    words: PhraseList | None = None,  # template of these names, and phrases that describe classes
) -> DenseExtractor:
    """Opens a teacher; a `ConfigurationError` for a useless choice, a `BundleError` for weights unfit or pickled."""
    if spec.startswith(_ESPNETV2):
        _refuse(layer != -1, "a layer", spec)
        if text_encoder is None:
            what = "class probabilities are tied to sentences, and no text encoder is named"
            cure = "Name one, for example sentence-transformers/all-MiniLM-L6-v2"
            raise ConfigurationError(what, where=spec, cure=cure)
        encoder = TextEncoder(text_encoder, device)
        return ClassProbabilityTeacher(spec.removeprefix(_ESPNETV2), encoder, words or NAMES, device)
    _refuse(text_encoder is not None, "a text encoder", spec)
    _refuse(bool(words and words.classes), "class texts", spec)
    if spec.startswith("diffusion:"):
        raise ConfigurationError(str(removed("teacher", "diffusion:")), where=spec)
    kind = model_files.read_config(model_files.description_folder(spec)).get("model_type")
    if isinstance(kind, str) and kind in _IMAGE_TEXT:
        _refuse(layer != -1, "a layer", spec)
        return _IMAGE_TEXT[kind](spec, device)
    return Backbone(spec, layer, device)


def _refuse(chosen: bool, what: str, spec: str) -> None:
    if chosen:
        raise ConfigurationError(f"this teacher has no choice of {what}", where=spec, cure="Leave it out")
