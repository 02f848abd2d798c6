"""Features out of the middle of a diffusion model (DIFT: Tang et al., NeurIPS 2023, https://arxiv.org/abs/2306.03881).

The image gets a little noise, once, and what the denoising network's decoder has in its blocks is the feature.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.untrusted_files import read_json
from scene_completion_training.foundation.backbone import ModelIdentity
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.foundation.model_files import GET_AGAIN, Normalisation, hub_folder, model_name, sha256
from scene_completion_training.foundation.pretrained import frozen_network, read_tokenizer

PIPELINE = "model_index.json"
_NETWORKS = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
_TEXT = "text_encoder/model.safetensors"
_FILES = (PIPELINE, "*/*.json", "tokenizer/*.txt", *_NETWORKS, _TEXT)
_BLOCKS = (0, 1, 2)


class DiffusionTeacher(DenseExtractor):
    """The first three decoder blocks of Stable Diffusion's UNet, for an empty sentence.

    The autoencoder's mean is taken and the noise is the same for every image, so that the same image always has the
    same features. Images are resized to the nearest whole number of the network's largest patches. The blocks' maps are
    resampled to the grid of cells and concatenated: 1280 + 1280 + 640 channels for Stable Diffusion 1.5.

    Args:
        model: Local folder as of a diffusers pipeline, or name on the hub.
        device: Where it runs, in single precision.
        timestep: How much noise, of the training's steps.
        seed: Of the noise.

    Raises:
        ConfigurationError: diffusers is not installed, no such model, or of another type.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """

    def __init__(self, model: str | Path, device: str = "cpu", *, timestep: int = 100, seed: int = 0) -> None:
        try:
            from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        except ImportError as error:
            raise ConfigurationError(
                f"a diffusion model needs the package diffusers ({error})",
                where=str(model),
                cure="pip install diffusers, or name another teacher",
            ) from error
        self._model, self._timestep, self._seed = str(model), timestep, seed
        self._folder = hub_folder(self._model, _FILES)
        kind = read_json(self._folder / PIPELINE, BundleError, cure=GET_AGAIN, kind=dict).get("_class_name")
        if kind != "StableDiffusionPipeline":
            raise ConfigurationError(
                f"{kind} is not supported",
                where=self._model,
                cure="Name a StableDiffusionPipeline, such as version 1.5",
            )
        lacking = [name for name in (*_NETWORKS, _TEXT) if not (self._folder / name).is_file()]
        if lacking:
            raise BundleError(
                f"no {lacking[0]} in it", where=self._model, cure="Name a folder whose weights are safetensors"
            )
        self._unet = _part(UNet2DConditionModel, self._folder / "unet")
        self._autoencoder = _part(AutoencoderKL, self._folder / "vae")
        scheduler = DDIMScheduler.from_pretrained(self._folder / "scheduler", local_files_only=True)
        if not 0 <= timestep < len(scheduler.alphas_cumprod):
            raise ConfigurationError(
                f"no timestep {timestep}", where="timestep", cure=f"Choose 0 to {len(scheduler.alphas_cumprod) - 1}"
            )
        self._kept = float(scheduler.alphas_cumprod[timestep])
        channels = list(reversed(self._unet.config.block_out_channels))
        super().__init__(sum(channels[i] for i in _BLOCKS), Normalisation((127.5,) * 3, (127.5,) * 3), device)
        self._multiple = 2 ** (len(self._autoencoder.config.block_out_channels) + len(channels) - 2)
        self._unet.to(self._device)
        self._autoencoder.to(self._device)
        self._nothing = self._empty_sentence().to(self._device)
        self._taps: list[Tensor] = []
        for i in _BLOCKS:
            self._unet.up_blocks[i].register_forward_hook(lambda *call: self._taps.append(call[-1]))

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        return ModelIdentity(
            name=model_name(self._model),
            type="stable-diffusion",
            weights={name: sha256(self._folder / name) for name in (*_NETWORKS, _TEXT)},
            layer=0,
            dim=self.dim,
            normalisation=self.normalisation,
            settings={"timestep": str(self._timestep), "seed": str(self._seed)},
        )

    @torch.no_grad()
    def _empty_sentence(self) -> Tensor:
        """float32 [1, N, D]: what the network is told of an image of which nothing is said."""
        folder = self._folder / "text_encoder"
        config = read_json(folder / "config.json", BundleError, cure=GET_AGAIN, kind=dict)
        network = frozen_network("CLIPTextModel", config, [self._folder / _TEXT])
        tokenizer = read_tokenizer(self._folder / "tokenizer")
        longest = int(network.config.max_position_embeddings)
        tokens = tokenizer([""], padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        return network(input_ids=tokens["input_ids"]).last_hidden_state  # type: ignore[no-any-return]

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        size = [self._multiple * max(1, round(edge / self._multiple)) for edge in pixels.shape[-2:]]
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        latents = self._autoencoder.encode(pixels).latent_dist.mean * self._autoencoder.config.scaling_factor
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(self._seed))
        noisy = self._kept**0.5 * latents + (1.0 - self._kept) ** 0.5 * noise.to(self._device)
        self._taps.clear()
        self._unet(noisy, self._timestep, encoder_hidden_states=self._nothing.expand(len(noisy), -1, -1))
        maps = [functional.interpolate(tap, (height, width), mode="bilinear", antialias=True) for tap in self._taps]
        self._taps.clear()
        return torch.cat(maps, dim=1)


def _part(kind: Any, folder: Path) -> Any:
    """A network of diffusers, frozen, out of safetensors alone; a `BundleError` if it cannot be loaded."""
    try:
        network = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
        )
    except Exception as error:  # of whatever kind: these files may say anything
        raise BundleError(
            f"cannot be loaded as {kind.__name__} ({' '.join(str(error).split())[:300]})",
            where=str(folder),
            cure="Get it once more",
        ) from error
    return network.eval().requires_grad_(False)
