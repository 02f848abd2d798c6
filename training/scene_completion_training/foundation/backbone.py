"""Dense teachers: what all of them share, and the tokens of vision transformers of the DINO family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, ImageError
from scene_completion_ros.geometry import Camera
from scene_completion_training.foundation import model_files


@dataclass(frozen=True)
class ModelIdentity:
    """What features follow from, besides the image."""

    name: str  # name of the folder, or on the hub; for people, two names may mean the same model
    type: str  # type of the model, as in its configuration
    weights: dict[str, str]  # file -> SHA-256
    layer: int  # hidden state that is taken, 0 what goes into the first block
    dim: int
    normalisation: model_files.Normalisation
    # Name of the model whose sentences lie in the space of the features; empty where there is none.
    text_encoder: str = ""
    text_encoder_sha256: str = ""
    settings: dict[str, str] = field(default_factory=dict)  # what else they follow from, name -> value


class DenseExtractor(ABC):
    """A frozen network, in single precision: `dim` numbers of a hidden `layer` for each square of pixels."""

    type: str
    layer: int

    def __init__(
        self, name: str, weights: Sequence[Path], dim: int, normalisation: model_files.Normalisation, device: str
    ) -> None:
        self.name, self._weights = name, weights
        self.dim, self.normalisation = dim, normalisation
        self._device = torch.device(device)
        colours = (normalisation.mean, normalisation.deviation)
        self._mean, self._deviation = (torch.tensor(values, device=self._device)[:, None, None] for values in colours)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What the features follow from; reads the weight files."""
        weights = {file.name: model_files.sha256(file) for file in self._weights}
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
        """Tokens [B, D, ⌈H / cell⌉, ⌈W / cell⌉] of images RGB [B, 3, H, W] in 0..255, for cells of so many pixels.

        Token (i, j) covers the pixels [i·cell, (i+1)·cell) × [j·cell, (j+1)·cell). Last row and column are repeated
        where the size is no multiple: cells stay where they are. They are float32, on the network's device, not
        normalised in length. Raises ImageError: images of another shape; ConfigurationError: `cell` is not positive.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageError(f"shape {tuple(images.shape)}", where="images", cure="Give [B, 3, H, W]")
        if cell < 1:
            raise ConfigurationError(f"{cell} pixels", where="cell", cure="Give at least 1")
        height, width = (-(-size // cell) for size in images.shape[-2:])
        # Lightning's mixed precision ends here: targets do not depend on how a network is trained on them.
        with torch.autocast(self._device.type, enabled=False):
            pixels = images.to(self._device).float()
            lacking = (height * cell - images.shape[-2], width * cell - images.shape[-1])
            if any(lacking):
                pixels = functional.pad(pixels, (0, lacking[1], 0, lacking[0]), mode="replicate")
            return self._tokens((pixels - self._mean) / self._deviation, height, width)

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


_CLASSES = {
    "vit": "ViTModel",  # DINO
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
_DEPTH = {"depth_anything": "DepthAnythingForDepthEstimation"}


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A transformer with what is needed to use it."""

    network: Any
    type: str
    normalisation: model_files.Normalisation
    patch: int  # edge of a patch, pixels
    dim: int
    blocks: int
    extra_tokens: int  # class and register tokens before the others
    options: dict[str, bool]  # further arguments of its forward pass
    files: list[Path]


def load_network(
    model: str, layer: int = -1, *, pretrained: bool = True, whole: bool = False, key: str = ""
) -> LoadedNetwork:
    """Loads a transformer of the DINO family, alone or out of a Depth Anything, without the blocks after a layer.

    `model`: local folder as of `save_pretrained` (without any request to the hub), or name on the hub; `layer`: hidden
    state that its last block gives; `pretrained`: read its weights, otherwise random, of its configuration; `whole`: a
    Depth Anything with neck and head, and nothing else; `key`: see `description_folder`. Raises ConfigurationError: no
    such model, of another type, or without this layer; found before weights are read; BundleError: weights that are
    missing, damaged, of another network, or only pickled.
    """
    folder = model_files.description_folder(model, key=key)
    config = model_files.read_config(folder)
    outer = _supported_type(config, model, _DEPTH if whole else {**_CLASSES, **_DEPTH})
    kind, part = outer, ""
    options: dict[str, Any] = {}
    if not whole:
        if outer in _DEPTH:
            config, part = model_files.config_part(config, "backbone_config", model), "backbone."
        kind = _supported_type(config, model, _CLASSES)
        config |= {"num_hidden_layers": _layer_index(config, layer, model)}
        # The backbone of a whole Depth Anything chooses its attention itself.
        options = {"attn_implementation": "sdpa"} | ({"add_pooling_layer": False} if kind == "vit" else {})
    normalisation = model_files.read_normalisation(folder)
    files = model_files.weight_files(model, key=key) if pretrained else []
    network = model_files.frozen_network({**_CLASSES, **_DEPTH}[kind], config, files, part=part, **options)
    transformer = network.backbone.config if whole else network.config
    size: int | list[int] = network.config.patch_size
    edges = {size} if isinstance(size, int) else set(size)
    if len(edges) > 1:
        raise ConfigurationError(f"patches of {size} are not square", where=model, cure="Name another model")
    counts = int(transformer.hidden_size), int(transformer.num_hidden_layers)
    extra_tokens = 1 + int(getattr(transformer, "num_register_tokens", 0))
    # DINO takes images of its training size alone by default; the others adapt by themselves.
    further = {"interpolate_pos_encoding": True} if kind == "vit" else {}
    return LoadedNetwork(network, outer, normalisation, edges.pop(), *counts, extra_tokens, further, files)


class Backbone(DenseExtractor):
    """A frozen DINO, DINOv2 or DINOv3 transformer that gives one hidden state, through its final LayerNorm.

    Of a Depth Anything it is the DINOv2 inside, which was trained to see depth. Images are resized by patch / cell
    (bilinear, antialiased). Class and register tokens are dropped. See `load_network` for models and errors. `layer`:
    index into the hidden states: 0 is what goes into the first block, −1 (or the number of blocks) what comes out of
    the last.
    """

    def __init__(self, model: str | Path, layer: int = -1, device: str = "cpu", *, key: str = "") -> None:
        loaded = load_network(str(model), layer, key=key)
        super().__init__(model_files.model_name(str(model)), loaded.files, loaded.dim, loaded.normalisation, device)
        self.type, self.layer = loaded.type, loaded.blocks
        self._patch, self._extra_tokens, self._options = loaded.patch, loaded.extra_tokens, loaded.options
        self._network = loaded.network.to(self._device)

    def _tokens(self, pixels: Tensor, height: int, width: int) -> Tensor:
        pixels = in_patches(pixels, self._patch, height, width)
        tokens: Tensor = self._network(pixel_values=pixels, **self._options).last_hidden_state
        return as_maps(tokens[:, self._extra_tokens :], height, width)


def _supported_type(config: dict[str, Any], model: str, known: Mapping[str, str]) -> str:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        reason = ": its stages have resolutions of their own" if kind == "dinov3_convnext" else ""
        what = f"model type {kind!r} is not supported{reason}"
        raise ConfigurationError(what, where=model, cure=f"There are {', '.join(known)}")
    if config.get("num_channels", 3) != 3:
        raise ConfigurationError(f"takes {config['num_channels']} channels", where=model, cure="Name one for RGB")
    return kind


def _layer_index(config: dict[str, Any], layer: int, model: str) -> int:
    blocks = config.get("num_hidden_layers", 12)  # the default of all these configurations
    if not isinstance(blocks, int) or blocks < 1:
        raise BundleError(f"num_hidden_layers is {blocks!r}", where=f"{model}: config.json")
    if not -blocks - 1 <= layer <= blocks:
        cure = f"Choose 0 to {blocks}, or {-blocks - 1} to -1 from the end"
        raise ConfigurationError(f"no layer {layer}: {model} has {blocks} blocks", where="layer", cure=cure)
    return layer % (blocks + 1)


# 2D features lifted to points in space: the mean over the views that see them (OpenScene; CUA-O3D, section 3.1).


RELATIVE_TOLERANCE = 0.25  # ScanNet's in OpenScene, which takes 0.02 for Matterport3D
FAR_TOLERANCE = 0.05
NEAREST = 1e-3


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """Features of a teacher for several views."""

    values: Tensor  # [V, D, h, w], any floating type
    offsets: Tensor  # left and upper edge (x, y) of token (0, 0) in each view, pixels [V, 2]
    cell: int | Tensor  # pixels along a token's side; along x and y [2] where they differ


@dataclass(frozen=True, eq=False)
class LiftedFeatures:
    """Features of points, lifted from views."""

    mean: Tensor  # mean of their features [N, D], zero where no view sees the point
    views: Tensor  # number of views that see each point [N]


class FeatureLifter:
    """Lifts features of views to points.

    A view sees a point that lies before its camera, inside its image, `border` pixels or more from its edges, and not
    farther than a tolerance (a share of the depth) from the surface that its depth shows. The tolerance of the
    published code, a quarter of the depth, is 12 m at 50 m; outdoors it is capped to two voxels, metres, and 5 % of the
    depth.
    """

    def __init__(
        self, camera: Camera, voxel_size: float, *, tolerance: float = RELATIVE_TOLERANCE, border: int = 0
    ) -> None:
        self.camera = camera
        self.cap = 2.0 * voxel_size
        self.tolerance, self.border = tolerance, border

    def pixels(self, points: Tensor, reference_from_view: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [V, N, 2] and z-depth [V, N] of points [N, 3] in views with poses [V, 4, 4]."""
        rotation, place = reference_from_view[:, :3, :3], reference_from_view[:, :3, 3]
        seen = (points[None] - place[:, None]) @ rotation  # the inverse of a rotation is its transpose
        depth = seen[..., 2]
        ahead = depth.clamp_min(NEAREST)
        camera = self.camera
        u = camera.fx * seen[..., 0] / ahead + camera.cx
        v = camera.fy * seen[..., 1] / ahead + camera.cy
        return torch.stack([u, v], dim=-1), depth

    def visible(self, pixels: Tensor, depth: Tensor, surface: Tensor | None, shown: Tensor | None = None) -> Tensor:
        """Whether views see points, bool [V, N], at pixels [V, N, 2] and z-depths [V, N], metres.

        `surface`: z-depth of what each pixel shows [V, H, W], metres; 0 where unknown: such a pixel sees no point; None
        if nothing hides anything. `shown`: pixels that show the world, bool [V, H, W]; None for all.
        """
        width, height, border = self.camera.width, self.camera.height, self.border
        column, row = pixels.round().long().unbind(dim=-1)
        inside = (column >= border) & (column < width - border) & (row >= border) & (row < height - border)
        inside &= depth > NEAREST
        at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        if surface is not None:
            there = surface.flatten(1).gather(1, at)
            tolerance = torch.minimum(self.tolerance * there, self.cap + FAR_TOLERANCE * there)
            inside &= (there > 0.0) & ((there - depth).abs() <= tolerance)
        return inside if shown is None else inside & shown.flatten(1).gather(1, at)

    def __call__(
        self,
        points: Tensor,
        maps: Mapping[str, TokenMaps],
        reference_from_view: Tensor,
        surface: Tensor | None,
        shown: Tensor | None = None,
    ) -> dict[str, LiftedFeatures]:
        """Features of each teacher at points [N, 3], metres, of V views at poses [V, 4, 4]; see `visible`."""
        pixels, depth = self.pixels(points, reference_from_view)
        seen = self.visible(pixels, depth, surface, shown)
        return {name: self._mean(pixels, seen, of_teacher) for name, of_teacher in maps.items()}

    def _mean(self, pixels: Tensor, seen: Tensor, maps: TokenMaps) -> LiftedFeatures:
        total = pixels.new_zeros(pixels.shape[1], maps.values.shape[1])
        for view in range(len(pixels)):
            chosen = seen[view].nonzero()[:, 0]
            if len(chosen):
                total.index_add_(0, chosen, self.sampled(maps, view, pixels[view, chosen]))
        views = seen.sum(dim=0)
        return LiftedFeatures(total * (1.0 / views.clamp_min(1)[:, None]), views)

    @staticmethod
    def sampled(maps: TokenMaps, view: int, pixels: Tensor) -> Tensor:
        """Tokens of a view, interpolated at pixels [M, 2]: [M, D]; beyond the outermost ones their values hold."""
        place = (pixels - maps.offsets[view] + 0.5) / maps.cell  # (0, 0) is the corner of token (0, 0)
        values = maps.values[view]
        height, width = values.shape[1:]
        grid = 2.0 * place / place.new_tensor([width, height]) - 1.0
        found = functional.grid_sample(
            values[None].float(), grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T
