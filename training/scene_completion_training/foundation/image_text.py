"""Dense teachers that lie in a text space by themselves: image towers of CLIP and SigLIP whose patches keep apart.

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
from scene_completion_training.foundation.dense_extractor import DenseExtractor, ModelIdentity, as_maps, in_patches
from scene_completion_training.foundation.model_files import (
    Normalisation,
    config_part,
    description_folder,
    joint_sha256,
    model_name,
    read_config,
    read_normalisation,
    weight_files,
)
from scene_completion_training.foundation.pretrained import frozen_network

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALVES = (0.5, 0.5, 0.5)


class _ImageTower(DenseExtractor):
    """An image tower, in single precision, with the text tower of the same model as its text encoder.

    The folder or hub name is that of the whole model. See `load_network` for errors.
    """

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self._model = str(model)
        folder = description_folder(self._model)
        config = read_config(folder)
        files = weight_files(self._model)
        self.type = str(config.get("model_type"))
        name, part, normalisation = self._of_type(folder, config)
        network = frozen_network(name, part, files, attn_implementation="sdpa")
        super().__init__(model_name(self._model), files, self._dim(network), normalisation, device)
        self.layer = int(network.config.num_hidden_layers)
        self._network = network.to(self._device)
        self._patch = int(network.config.patch_size)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        of_texts = joint_sha256(self._weights)
        return dataclasses.replace(super().identity, text_encoder=self.name, text_encoder_sha256=of_texts)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        return as_maps(self._patches(in_patches(pixels, self._patch, height, width)), height, width)

    @abstractmethod
    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], Normalisation]:
        """Class of transformers, its configuration and what it expects of its input."""

    @abstractmethod
    def _dim(self, network: Any) -> int:
        """Dimension of the text space."""

    @abstractmethod
    def _patches(self, pixels: Tensor) -> Tensor:
        """Vectors [B, N, D] of the patches in the text space."""


class ClipTeacher(_ImageTower):
    """CLIP's image tower with MaskCLIP's last block.

    In place of the last attention, the values of each patch alone go through its output projection, without the
    residual. Then come the LayerNorm and the projection to the text space.
    """

    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], Normalisation]:
        part = config_part(config, "vision_config", self._model)
        part |= {name: config[name] for name in ("projection_dim",) if name in config}
        return "CLIPVisionModelWithProjection", part, read_normalisation(folder, _CLIP_MEAN, _CLIP_STD)

    def _dim(self, network: Any) -> int:
        return int(network.config.projection_dim)

    def _patches(self, pixels: Tensor) -> Tensor:
        tower = self._network.vision_model
        states = tower(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = tower.encoder.layers[-1]
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states[-2])))
        vectors: Tensor = self._network.visual_projection(tower.post_layernorm(values))
        return vectors[:, 1:]


class SiglipTeacher(_ImageTower):
    """SigLIP's image tower, or SigLIP 2's, with its pooling applied to each patch alone.

    The pooling is an attention of one learned query to all patches, and an MLP. Here every patch is all that the query
    sees: its values go through the output projection and the MLP.
    """

    def _of_type(self, folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], Normalisation]:
        name = "Siglip2VisionModel" if self.type == "siglip2" else "SiglipVisionModel"
        part = config_part(config, "vision_config", self._model)
        if not part.get("vision_use_head", True):
            what = "has no pooling, so its patches have no way to the text space"
            raise ConfigurationError(what, where=self._model, cure="Name another")
        return name, part, read_normalisation(folder, _HALVES, _HALVES)

    def _dim(self, network: Any) -> int:
        return int(network.config.hidden_size)

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
