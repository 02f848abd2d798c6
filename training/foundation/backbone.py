"""Tokens of a vision transformer of the DINO family, each of which covers a square of pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, ImageError
from scene_completion_training.foundation.model_files import (
    Normalisation,
    description_folder,
    read_config,
    read_normalisation,
    sha256,
    weight_files,
)

_CLASSES = {
    "vit": "ViTModel",  # DINO
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
_DEPTH = {"depth_anything": "DepthAnythingForDepthEstimation"}
_DERIVED = ("out_features", "out_indices", "stage_names")
"""Entries of a configuration that count its blocks, and do not matter here."""
_UNUSED = "mask_token"


@dataclass(frozen=True)
class ModelIdentity:
    """What features follow from, besides the image.

    Attributes:
        name: Name of the folder, or on the hub; for people, two names may mean the same model.
        type: Type of the model, as in its configuration.
        weights: File -> SHA-256.
        layer: Hidden state that is taken, 0 what goes into the first block.
        normalisation: Of the input.
    """

    name: str
    type: str
    weights: dict[str, str]
    layer: int
    dim: int
    normalisation: Normalisation


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A transformer with what is needed to use it.

    Attributes:
        network: The module of transformers.
        normalisation: Of the input.
        patch: Edge of a patch, pixels.
        dim: Dimension of a token.
        extra_tokens: Class and register tokens before the others.
        options: What its forward pass has to be told.
        files: Weights that were read.
    """

    network: Any
    type: str
    normalisation: Normalisation
    patch: int
    dim: int
    blocks: int
    extra_tokens: int
    options: dict[str, bool]
    files: list[Path]


def load_network(model: str, layer: int = -1, *, pretrained: bool = True) -> LoadedNetwork:
    """Loads a transformer of the DINO family, without the blocks after a layer.

    Args:
        layer: Hidden state that its last block gives.
        pretrained: Read its weights; otherwise they are random, and only its configuration is read.

    Raises:
        ConfigurationError: No such model, of another type, or without this layer; found before weights are read.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """
    folder = description_folder(model)
    config = read_config(folder)
    kind = _supported_type(config, model, _CLASSES)
    normalisation = read_normalisation(folder)
    blocks = _layer_index(config, layer, model)
    config |= {"num_hidden_layers": blocks}
    files = weight_files(model) if pretrained else []
    network = _network(files, _CLASSES[kind], config)
    return LoadedNetwork(
        network=network,
        type=kind,
        normalisation=normalisation,
        patch=_patch_size(network.config.patch_size, model),
        dim=int(network.config.hidden_size),
        blocks=blocks,
        extra_tokens=1 + int(getattr(network.config, "num_register_tokens", 0)),
        # DINO keeps to the size it was trained at unless asked; the others adapt by themselves.
        options={"interpolate_pos_encoding": True} if kind == "vit" else {},
        files=files,
    )


def load_depth_network(model: str, *, pretrained: bool = True) -> LoadedNetwork:
    """Loads a network that estimates relative depth, whole.

    Args:
        model: Local folder as of `save_pretrained` (the hub is never asked then), or name on the hub.
        pretrained: Read its weights; otherwise they are random, and only its configuration is read.

    Raises:
        ConfigurationError: No such model, or one of another type.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """
    folder = description_folder(model)
    config = read_config(folder)
    kind = _supported_type(config, model, _DEPTH)
    files = weight_files(model) if pretrained else []
    network = _network(files, _DEPTH[kind], config)
    backbone = network.backbone.config
    return LoadedNetwork(
        network=network,
        type=kind,
        normalisation=read_normalisation(folder),
        patch=_patch_size(network.config.patch_size, model),
        dim=int(backbone.hidden_size),
        blocks=int(backbone.num_hidden_layers),
        extra_tokens=1,
        options={},
        files=files,
    )


class Backbone:
    """A frozen DINO, DINOv2 or DINOv3 transformer that gives one hidden state, through its final LayerNorm.

    Class and register tokens are dropped. Blocks after the hidden state are not even loaded.

    Args:
        model: Local folder as of `save_pretrained` (the hub is never asked then), or name on the hub.
        layer: Index into the hidden states: 0 is what goes into the first block, −1 (or the number of blocks) what
            comes out of the last.
        device: Where it runs, in single precision.

    Raises:
        ConfigurationError: No such model, of another type, or without this layer; found before weights are read.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """

    def __init__(self, model: str | Path, layer: int = -1, device: str = "cpu") -> None:
        self._model = str(model)
        loaded = load_network(self._model, layer)
        self.type, self.normalisation = loaded.type, loaded.normalisation
        self.layer, self.dim = loaded.blocks, loaded.dim
        self._patch, self._extra_tokens, self._options = loaded.patch, loaded.extra_tokens, loaded.options
        self._weights = loaded.files
        self._device = torch.device(device)
        self._network = loaded.network.to(self._device)
        self._mean, self._deviation = (
            torch.tensor(values, device=self._device)[:, None, None]
            for values in (self.normalisation.mean, self.normalisation.deviation)
        )

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        folder = Path(self._model).expanduser()
        return ModelIdentity(
            name=folder.resolve().name if folder.is_dir() else self._model,
            type=self.type,
            weights={file.name: sha256(file) for file in self._weights},
            layer=self.layer,
            dim=self.dim,
            normalisation=self.normalisation,
        )

    @torch.no_grad()
    def features(self, images: Tensor, cell: int) -> Tensor:
        """Tokens of images; token (i, j) covers the pixels [i·cell, (i+1)·cell) × [j·cell, (j+1)·cell).

        The image is resized by patch / cell (bilinear, antialiased). Where its size is no multiple of `cell`, its last
        row and column are repeated before: every pixel is in a cell, and cells stay where they are.

        Args:
            images: RGB [B, 3, H, W] in 0..255, of any type.
            cell: Edge of the square of pixels that a token covers.

        Returns:
            float32 [B, D, ⌈H / cell⌉, ⌈W / cell⌉] on the backbone's device, not normalised in length.

        Raises:
            ImageError: Images of another shape.
            ConfigurationError: `cell` is not positive.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageError(f"shape {tuple(images.shape)}", where="images", cure="Give [B, 3, H, W]")
        if cell < 1:
            raise ConfigurationError(f"{cell} pixels", where="cell", cure="Give at least 1")
        height, width = (-(-size // cell) for size in images.shape[-2:])
        # Lightning's mixed precision ends here: targets do not depend on how a network is trained on them.
        with torch.autocast(self._device.type, enabled=False):
            pixels = _enlarged(images.to(self._device).float(), cell, height, width)
            pixels = (pixels - self._mean) / self._deviation
            if cell != self._patch:
                size = (height * self._patch, width * self._patch)
                pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
            tokens: Tensor = self._network(pixel_values=pixels, **self._options).last_hidden_state
        return tokens[:, self._extra_tokens :].transpose(1, 2).reshape(len(images), self.dim, height, width)


def _enlarged(images: Tensor, cell: int, height: int, width: int) -> Tensor:
    """Images [B, 3, H, W] with their edge repeated to the right and below, to a whole number of cells."""
    right, below = width * cell - images.shape[-1], height * cell - images.shape[-2]
    return functional.pad(images, (0, right, 0, below), mode="replicate") if right or below else images


def _supported_type(config: dict[str, Any], model: str, known: Mapping[str, str]) -> str:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        reason = ": its stages have resolutions of their own" if kind == "dinov3_convnext" else ""
        raise ConfigurationError(
            f"model type {kind!r} is not supported{reason}", where=model, cure=f"There are {', '.join(known)}"
        )
    if config.get("num_channels", 3) != 3:
        raise ConfigurationError(f"takes {config['num_channels']} channels", where=model, cure="Name one for RGB")
    return kind


def _layer_index(config: dict[str, Any], layer: int, model: str) -> int:
    """Index from the front of a hidden state."""
    blocks = config.get("num_hidden_layers", 12)  # the default of all these configurations
    if not isinstance(blocks, int) or blocks < 1:
        raise BundleError(f"num_hidden_layers is {blocks!r}", where=f"{model}: config.json")
    if not -blocks - 1 <= layer <= blocks:
        raise ConfigurationError(
            f"no layer {layer}: {model} has {blocks} blocks",
            where="layer",
            cure=f"Choose 0 to {blocks}, or {-blocks - 1} to -1 from the end",
        )
    return layer % (blocks + 1)


def _patch_size(size: int | list[int], model: str) -> int:
    edges = {size} if isinstance(size, int) else set(size)
    if len(edges) > 1:
        raise ConfigurationError(f"patches of {size} are not square", where=model, cure="Name another model")
    return edges.pop()


def _network(files: list[Path], name: str, config: dict[str, Any]) -> Any:
    """The network, a class of transformers, with the weights of its files, or random ones where there are none, frozen.

    Raises:
        BundleError: They are damaged, or those of another network.
    """
    import transformers

    network_class = getattr(transformers, name)
    options: dict[str, Any] = {"add_pooling_layer": False} if name == "ViTModel" else {}
    known = {name: value for name, value in config.items() if name not in _DERIVED}
    if not files:
        return network_class(network_class.config_class.from_dict(known), **options).eval().requires_grad_(False)
    folder = str(files[0].parent)
    try:
        weights = {name: value for file in files for name, value in safetensors.torch.load_file(file).items()}
        with _quiet():
            # Given the weights, transformers opens no file: a configuration cannot send it elsewhere.
            network, report = network_class.from_pretrained(
                None,
                config=network_class.config_class.from_dict(known),
                state_dict=weights,
                dtype=torch.float32,
                **({} if name in _DEPTH.values() else {"attn_implementation": "sdpa"}),  # its backbone chooses itself
                ignore_mismatched_sizes=True,  # they are in the report
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # of whatever kind: these files may say anything
        raise BundleError(
            f"cannot be loaded as {name} ({str(error)[:300]})", where=folder, cure="Get it once more"
        ) from error
    missing = [name for name in report["missing_keys"] if not name.endswith(_UNUSED)]
    unfit = sorted([*missing, *(name for name, *_ in report["mismatched_keys"])])
    if unfit:  # they would have random values
        raise BundleError(
            f"{len(unfit)} weights are missing or of another shape, such as {unfit[0]}",
            where=folder,
            cure="Name a model whose weights fit its config.json",
        )
    return network.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from listing the blocks that are left out on purpose, and from drawing a bar."""
    from transformers.utils import logging as settings

    logger = logging.getLogger("transformers")
    level, bar = logger.level, settings.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    settings.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logger.setLevel(level)
        if bar:
            settings.enable_progress_bar()  # type: ignore[no-untyped-call]
