"""The full-size trunk of SceneDINO: a vision transformer of the DINO family, whose tokens become a pyramid of maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.foundation.backbone import load_network
from scene_completion_training.networks.trunk import Trunk

PRETRAINED = "facebook/dino-vitb8"
"""DINO ViT-B/8 on the model hub; a local folder of the same layout does as well, and others of the family."""
PYRAMID = (64, 64, 128, 256)
"""Channels of the maps at a quarter of, half of, once and twice the patch size (DPT as SceneDINO has it)."""
PATCHES = (8, 16)


class VisionTransformerTrunk(Trunk):
    """Tokens after a quarter, half, three quarters and all of the blocks, reassembled into four maps (DPT).

    Args:
        pretrained: Start from its weights; otherwise only its configuration is read.
        frozen_blocks: The embedding and so many first blocks keep their weights.

    Raises:
        ConfigurationError: Its patches are neither 8 nor 16 pixels wide.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 0, weights: str = PRETRAINED) -> None:
        loaded = load_network(weights, pretrained=pretrained)
        if loaded.patch not in PATCHES:
            raise ConfigurationError(
                f"patches of {loaded.patch} pixels", where=weights, cure="Name a transformer with patches of 8 or 16"
            )
        mean, deviation = loaded.normalisation.mean, loaded.normalisation.deviation
        super().__init__(channels=PYRAMID, mean=_in_bytes(mean), scale=_in_bytes(deviation))
        self.patch = loaded.patch
        self._extra_tokens, self._options = loaded.extra_tokens, loaded.options
        self.network: Any = loaded.network.requires_grad_(True)
        blocks, size = loaded.blocks, loaded.dim
        self._taps = tuple(round(blocks * share) for share in (0.25, 0.5, 0.75, 1.0))
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, width, 1), resize)
            for width, resize in zip(
                PYRAMID,
                (
                    nn.ConvTranspose2d(PYRAMID[0], PYRAMID[0], 4, stride=4),
                    nn.ConvTranspose2d(PYRAMID[1], PYRAMID[1], 2, stride=2),
                    nn.Identity(),
                    nn.Conv2d(PYRAMID[3], PYRAMID[3], 3, stride=2, padding=1),
                ),
                strict=True,
            )
        )
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

    def in_order(self) -> Iterable[nn.Module]:
        """The embedding, and then the blocks."""
        # The list of blocks has another name in every model of transformers, and in its versions.
        lists = [module for module in self.network.modules() if isinstance(module, nn.ModuleList)]
        return (self.network.embeddings, *next(module for module in lists if len(module) == self._taps[-1]))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at a quarter of, half of, once and twice the patch size of images [B, 3, H, W] in 0..255."""
        height, width = (size // self.patch for size in image.shape[-2:])
        states = self.network(pixel_values=self.normalised(image), output_hidden_states=True, **self._options)
        tokens = [*(states.hidden_states[tap] for tap in self._taps[:-1]), states.last_hidden_state]
        maps = []
        for reassemble, state in zip(self.reassemble, tokens, strict=True):
            grid = state[:, self._extra_tokens :].transpose(1, 2).reshape(len(image), -1, height, width)
            maps.append(reassemble(grid))
        return maps


def _in_bytes(values: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (255.0 * value for value in values)
    return red, green, blue


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))) (RefineNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map of the same shape."""
        out: Tensor = x + self.body(x)
        return out


class DensePredictionDecoder(nn.Module):
    """DPT's decoder up to the resolution of the image (Ranftl et al. 2021; SceneDINO, section 3.1).

    SceneDINO's goes on to twice that with patches of 8 pixels: four times the memory for nothing more to see.

    Args:
        patch: Patch size of the transformer, 8 or 16.
        width: Channels.
    """

    stride = 1

    def __init__(self, patch: int, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1, bias=False) for channels in PYRAMID)
        self.skip = nn.ModuleList(ResidualUnit(width) for _ in PYRAMID[:-1])
        self.fuse = nn.ModuleList(
            nn.Sequential(ResidualUnit(width), _twice(), nn.Conv2d(width, width, 1)) for _ in PYRAMID
        )
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), *(_twice() for _ in range(patch // 16)), nn.ReLU()
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Returns the map [B, width, H, W] of the four maps of a `VisionTransformerTrunk`."""
        sides = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        out = self.fuse[-1](sides[-1])
        for level in (2, 1, 0):
            out = self.fuse[level](out + self.skip[level](sides[level]))
        merged: Tensor = self.head(out)
        return merged


def _twice() -> nn.Upsample:
    return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
