"""What a Stable Diffusion sees in an image: DIFT, states of its U-net after one step (Tang et al., NeurIPS 2023)."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.dense_extractor import DenseExtractor, in_patches
from scene_completion_training.foundation.model_files import Normalisation, hub_folder, model_name

STEP = 100  # noise step whose image the U-net sees (CUA-O3D)
UP_BLOCKS = 3  # blocks on the way up whose outputs stand side by side, from the first on: 1280 + 1280 + 640 channels
PIXELS = 8  # edge of a token's square in the image that the model sees: one of its latents
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_HALVES = (127.5, 127.5, 127.5)


class DiffusionTeacher(DenseExtractor):
    """A frozen Stable Diffusion of diffusers, with the empty prompt.

    The noise is the same for every image: the released code of CUA-O3D draws it anew with each call, and the latents
    too, of which this takes the mean. Images are resized so that a token covers eight pixels. Raises
    ConfigurationError: diffusers is not installed, or there is no such model; BundleError where a part of it is
    missing, damaged, or only pickled. `model`: local folder or hub name of a pipeline in safetensors.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            cure = "Install it with: pip install diffusers"
            raise ConfigurationError("needs the package diffusers", where=model, cure=cure) from error
        import transformers

        wanted = [f"{part}/{name}" for part in _PARTS for name in ("*.json", "*.txt", "*.safetensors")]
        folder = hub_folder(model, wanted)
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        try:
            self._unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", **options)
            self._vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae", **options)
            self._scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
            prompt = _empty_prompt(transformers, folder, options)
        except Exception as error:  # of whatever kind: these files may say anything
            what = f"cannot be loaded as a Stable Diffusion ({' '.join(str(error).split())[:300]})"
            raise BundleError(what, where=str(folder), cure="Name a pipeline with weights in safetensors") from error
        for network in (self._unet, self._vae):
            network.eval().requires_grad_(False).to(device)
        self._prompt = prompt.to(device)
        self.type, self.layer = "stable_diffusion", STEP
        widths = self._unet.config.block_out_channels[::-1]
        files = sorted(file for part in _PARTS for file in (folder / part).glob("*.safetensors"))
        super().__init__(model_name(model), files, sum(widths[:UP_BLOCKS]), Normalisation(_HALVES, _HALVES), device)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        pixels = in_patches(pixels, PIXELS, height, width)
        latents = self._vae.encode(pixels).latent_dist.mean * self._vae.config.scaling_factor
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
        step = torch.full((len(latents),), STEP, device=latents.device)
        noisy = self._scheduler.add_noise(latents, noise.expand_as(latents), step)
        found: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _module, _inputs, output: found.append(output))
            for block in self._unet.up_blocks[:UP_BLOCKS]
        ]
        try:
            self._unet(noisy, step, encoder_hidden_states=self._prompt.expand(len(latents), -1, -1))
        finally:
            for hook in hooks:
                hook.remove()
        maps = [functional.interpolate(states, (height, width), mode="bicubic") for states in found]
        return torch.cat(maps, dim=1)


def _empty_prompt(transformers: Any, folder: Path, options: dict[str, Any]) -> Tensor:
    """States [1, L, D] of no words."""
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", **options).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    length = encoder.config.max_position_embeddings
    tokens = tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        states: Tensor = encoder(tokens["input_ids"]).last_hidden_state
    return states
