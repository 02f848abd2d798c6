"""Teachers by name, one word for each network: among them image towers of CLIP and SigLIP, and Stable Diffusion.

The towers are trained so that one vector of the whole image lies near its sentence. Their last attention mixes the
values of patches, and the values of each patch alone lie in the same space. That is MaskCLIP: Zhou, Loy and Dai, ECCV
2022, https://arxiv.org/abs/2112.01071. Of a Stable Diffusion the features are DIFT, states of its U-net after one step
(Tang et al., NeurIPS 2023).
"""

import dataclasses
import importlib
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.commands.requirements import how_to_install
from scene_completion_ros.errors import BundleError, ConfigurationError
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


STEP = 100  # noise step whose image the U-net sees (CUA-O3D)
UP_BLOCKS = 3  # blocks on the way up whose outputs stand side by side, from the first on: 1280 + 1280 + 640 channels
PIXELS = 8  # edge of a token's square in the image that the model sees: one of its latents
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_HALVES = (127.5, 127.5, 127.5)


class DiffusionTeacher(DenseExtractor):
    """A frozen Stable Diffusion of diffusers, with the empty prompt: a folder or hub name of one in safetensors.

    The noise is the same for every image: the released code of CUA-O3D draws it anew with each call, and the latents
    too, of which this takes the mean. Images are resized so that a token covers eight pixels. Raises
    ConfigurationError: diffusers is not installed, or there is no such model; BundleError: parts that are missing,
    damaged, or only pickled.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            cure = how_to_install("diffusers", "diffusion")
            raise ConfigurationError("needs the package diffusers", where=model, cure=cure) from error
        import transformers

        wanted = [f"{part}/{name}" for part in _PARTS for name in ("*.json", "*.txt", "*.safetensors")]
        folder = model_files.hub_folder(model, wanted)
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        try:
            self._unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", **options)
            self._vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae", **options)
            self._scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
            prompt = _empty_prompt(transformers, folder, options)
        except Exception as error:  # of whatever kind: these files are untrusted
            what = f"cannot be loaded as a Stable Diffusion ({' '.join(str(error).split())[:300]})"
            raise BundleError(what, where=str(folder), cure="Name a pipeline with weights in safetensors") from error
        for network in (self._unet, self._vae):
            network.eval().requires_grad_(False).to(device)
        self._prompt = prompt.to(device)
        self.type, self.layer = "stable_diffusion", STEP
        widths = self._unet.config.block_out_channels[::-1]
        files = sorted(file for part in _PARTS for file in (folder / part).glob("*.safetensors"))
        expected = model_files.Normalisation(_HALVES, _HALVES)
        super().__init__(model_files.model_name(model), files, sum(widths[:UP_BLOCKS]), expected, device)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        pixels = in_patches(pixels, PIXELS, height, width)
        latents = self._vae.encode(pixels).latent_dist.mean * self._vae.config.scaling_factor
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
        step = torch.full((len(latents),), STEP, device=latents.device)
        noisy = self._scheduler.add_noise(latents, noise.expand_as(latents), step)
        found: list[Tensor] = []
        blocks = self._unet.up_blocks[:UP_BLOCKS]
        hooks = [block.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for block in blocks]
        try:
            self._unet(noisy, step, encoder_hidden_states=self._prompt.expand(len(latents), -1, -1))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([functional.interpolate(states, (height, width), mode="bicubic") for states in found], dim=1)


def _empty_prompt(transformers: Any, folder: Path, options: dict[str, Any]) -> Tensor:
    """States [1, L, D] of no words."""
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", **options).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        states: Tensor = encoder(tokens["input_ids"]).last_hidden_state
    return states


_ESPNETV2, _DIFFUSION = "espnetv2:", "diffusion:"
_IMAGE_TEXT: dict[str, type[_ImageTower]] = {"clip": ClipTeacher, "siglip": SiglipTeacher, "siglip2": SiglipTeacher}


def open_teacher(
    # `espnetv2:FILE_OR_FOLDER`; `diffusion:FOLDER_OR_HUB_NAME` of a Stable Diffusion; or a local folder, or a name on
    # the hub, of a DINO, DINOv2, DINOv3, Depth Anything, CLIP or SigLIP: see its configuration.
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
    if spec.startswith(_DIFFUSION):
        _refuse(layer != -1, "a layer", spec)
        return DiffusionTeacher(spec.removeprefix(_DIFFUSION), device)
    kind = model_files.read_config(model_files.description_folder(spec)).get("model_type")
    if isinstance(kind, str) and kind in _IMAGE_TEXT:
        _refuse(layer != -1, "a layer", spec)
        return _IMAGE_TEXT[kind](spec, device)
    return Backbone(spec, layer, device)


def _refuse(chosen: bool, what: str, spec: str) -> None:
    if chosen:
        raise ConfigurationError(f"this teacher has no choice of {what}", where=spec, cure="Leave it out")
