"""Teachers by name, one word for each network: among them the image tower of CLIP, and Stable Diffusion.

CLIP is trained so that one vector of the whole image lies near its sentence. Its last attention mixes the values of
patches, and the values of each patch alone lie in the same space. That is MaskCLIP: Zhou, Loy and Dai, ECCV 2022,
https://arxiv.org/abs/2112.01071. Of a Stable Diffusion the features are DIFT, states of its U-net after one step
(Tang et al., NeurIPS 2023).
"""

import dataclasses
import importlib
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


class ClipTeacher(DenseExtractor):
    """CLIP's image tower with MaskCLIP's last block: values, out projection without residual, norm, projection.

    Its text encoder is the text tower of the same model; see `load_network` for errors.
    """

    type = "clip"

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        folder = model_files.description_folder(str(model))
        config = model_files.read_config(folder)
        files = model_files.weight_files(str(model))
        part = model_files.config_part(config, "vision_config", str(model))
        part |= {name: config[name] for name in ("projection_dim",) if name in config}
        network = model_files.frozen_network("CLIPVisionModelWithProjection", part, files, attn_implementation="sdpa")
        normalisation = model_files.read_normalisation(folder, _CLIP_MEAN, _CLIP_STD)
        dim = int(network.config.projection_dim)
        super().__init__(model_files.model_name(str(model)), files, dim, normalisation, device)
        self.layer = int(network.config.num_hidden_layers)
        self._network = network.to(self._device)
        self._patch = int(network.config.patch_size)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        of_texts = model_files.joint_sha256(self._weights)
        return dataclasses.replace(super().identity, text_encoder=self.name, text_encoder_sha256=of_texts)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        pixels, tower = in_patches(pixels, self._patch, height, width), self._network.vision_model
        states = tower(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = tower.encoder.layers[-1]
        values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states[-2])))
        vectors: Tensor = self._network.visual_projection(tower.post_layernorm(values))  # in the text space
        return as_maps(vectors[:, 1:], height, width)


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


def open_teacher(
    # `espnetv2:FILE_OR_FOLDER`; `diffusion:FOLDER_OR_HUB_NAME` of a Stable Diffusion; or a local folder, or a name on
    # the hub, of a DINO, DINOv2, DINOv3, Depth Anything or CLIP: see its configuration.
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
    if kind == ClipTeacher.type:
        _refuse(layer != -1, "a layer", spec)
        return ClipTeacher(spec, device)
    return Backbone(spec, layer, device)


def _refuse(chosen: bool, what: str, spec: str) -> None:
    if chosen:
        raise ConfigurationError(f"this teacher has no choice of {what}", where=spec, cure="Leave it out")
