"""Image encoder-decoder: a pretrained trunk and its decoder, one feature map."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.networks import trunk as trunks
from scene_completion_training.networks.trunk import DINO, ResNetTrunk, Trunk, VisionTransformerTrunk

TrunkName = Literal["efficientnet_lite0", "resnet50", "vision_transformer"]
DECODER_WIDTHS = (48, 64, 96, 160)  # channels of the decoder of EfficientNet-Lite0 at strides 2, 4, 8 and 16
# Channels of the decoder of Behind the Scenes at strides 1 to 16; each is raised to those of the feature map.
MONODEPTH_WIDTHS = (32, 32, 64, 128, 256)


def make_trunk(
    name: TrunkName, size: tuple[int, int], *, pretrained: bool, frozen_blocks: int, weights: str = ""
) -> Trunk:
    """A trunk by its name, pretrained or not; `weights`: folder or hub name, by default those it is known by."""
    if name == "resnet50":
        return ResNetTrunk(pretrained=pretrained, frozen_blocks=frozen_blocks, weights=weights or trunks.RESNET)
    if name == "vision_transformer":
        return VisionTransformerTrunk(size, pretrained=pretrained, frozen_blocks=frozen_blocks, weights=weights or DINO)
    return trunks.EfficientNetLiteTrunk(pretrained=pretrained, frozen_blocks=frozen_blocks)


Decoder: TypeAlias = "UNetDecoder | MonodepthDecoder | trunks.DensePredictionDecoder"


def make_decoder(trunk: Trunk, width: int = 64) -> Decoder:
    """Makes the decoder that belongs to a trunk; `width`: channels of the feature map that a ResNet's ends with."""
    if isinstance(trunk, VisionTransformerTrunk):
        return trunks.DensePredictionDecoder(trunk.cell)
    if isinstance(trunk, ResNetTrunk):
        return MonodepthDecoder(trunk.channels, width)
    return UNetDecoder(trunk.channels, DECODER_WIDTHS)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.ELU(inplace=True))


class UNetDecoder(nn.Module):
    """U-Net decoder: convolution, nearest ×2, concatenated skip and pixel coordinates, convolution, stride 32 to 2.

    The depth of a pixel of a street depends first of all on its row. Convolutions see that in the padding at the border
    alone, so coordinates are inputs (CoordConv, Liu et al. 2018). `widths`: channels at strides 2, 4, 8 and 16.
    """

    stride = 2

    def __init__(self, trunk_channels: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.width = widths[0]
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
            out = merge(torch.cat([out, skip, pixel_places(skip)], dim=1))
        return out


def pixel_places(like: Tensor) -> Tensor:
    """Normalised pixel coordinates (x, y) in −1..1 as a map [B, 2, h, w]."""
    batch, _, height, width = like.shape
    x = torch.linspace(-1.0, 1.0, width, device=like.device, dtype=like.dtype).expand(height, width)
    y = torch.linspace(-1.0, 1.0, height, device=like.device, dtype=like.dtype)[:, None].expand(height, width)
    return torch.stack([x, y]).expand(batch, 2, height, width)


class MonodepthDecoder(nn.Module):
    """The decoder of Behind the Scenes (section 4.1): that of Monodepth2 (Godard et al. 2019) with more width.

    At each stride from 16 to 1: 3×3 convolution and ELU, nearest ×2, concatenated skip (none at stride 1), 3×3
    convolution and ELU; then a 3×3 convolution without activation. All pad by reflection.
    """

    stride = 1.0

    def __init__(self, trunk_channels: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.reduce, self.merge = nn.ModuleList(), nn.ModuleList()
        below = trunk_channels[-1]
        for wanted, skip in zip(reversed(MONODEPTH_WIDTHS), (*reversed(trunk_channels[:-1]), 0), strict=True):
            channels = max(wanted, width)
            self.reduce.append(self._block(below, channels))
            self.merge.append(self._block(channels + skip, channels))
            below = channels
        self.out = nn.Conv2d(below, width, 3, padding=1, padding_mode="reflect")

    @staticmethod
    def _block(channels_in: int, channels_out: int) -> nn.Sequential:
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode="reflect")
        return nn.Sequential(convolution, nn.ELU(inplace=True))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Returns the map at the resolution of the image, [B, width, H, W]."""
        out = maps[-1]
        for reduce, merge, skip in zip(self.reduce, self.merge, (*reversed(maps[:-1]), None), strict=True):
            out = functional.interpolate(reduce(out), scale_factor=2.0, mode="nearest")
            out = merge(out if skip is None else torch.cat([out, skip], dim=1))
        return self.out(out)  # type: ignore[no-any-return]


class EncoderDecoder(nn.Module):
    """Image to pixel-aligned feature map: at half resolution, or at that of the image with the published networks.

    Channel 0 starts as `prior`, a map of the mean inverse depth code; the image's share is learned as its correction.
    The published networks end with their decoders, to whose first channel the prior is added, and have no `project`.
    `mixed`: precision that the network itself computes in; what it returns is single always: half a pixel is lost where
    geometry is computed in bfloat16. `flipped`: the network sees images mirrored, and its map is mirrored back: the
    augmentation of Behind the Scenes, which leaves geometry alone.
    """

    def __init__(
        self,
        size: tuple[int, int] = (192, 640),
        *,
        # Channels of the feature map (64 in Behind the Scenes, 32 on RealEstate10K); 256 with a vision transformer.
        channels: int = 64,
        trunk: TrunkName = "efficientnet_lite0",
        pretrained: bool = True,  # start the trunk from its ImageNet weights
        frozen_blocks: int = 16,  # first blocks of the trunk that keep them
        weights: str = "",  # local folder or hub name of the trunk's weights; by default those that it is known by
    ) -> None:
        super().__init__()
        self.trunk = make_trunk(trunk, size, pretrained=pretrained, frozen_blocks=frozen_blocks, weights=weights)
        self.decoder = make_decoder(self.trunk, channels)
        self.stride = float(self.decoder.stride)  # pixels of the image to one of the feature map
        self.mixed: torch.dtype | None = None
        self.flipped = False
        self.prior: Tensor = nn.Buffer(torch.zeros(1, 1, *self.map_size(size)))
        self.project: nn.Conv2d | None = None
        if isinstance(self.decoder, MonodepthDecoder | trunks.DensePredictionDecoder):
            self.channels = self.decoder.width
            return
        self.channels = channels
        self.project = nn.Conv2d(self.decoder.width + 1, channels, 1)
        with torch.no_grad():
            self.project.weight[:, -1] = 0.0
            self.project.weight[0] = 0.0
            self.project.weight[0, -1] = 1.0
            assert self.project.bias is not None
            self.project.bias[0] = 0.0

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the feature map of images of a size (H, W)."""
        return int(size[0] / self.stride), int(size[1] / self.stride)

    @property
    def projection(self) -> nn.Conv2d:
        """`project`, or the convolution that does the same where the decoder gives the features: for the export."""
        if self.project is not None:
            return self.project
        added = nn.Conv2d(self.decoder.width + 1, self.channels, 1)
        with torch.no_grad():
            nn.init.dirac_(added.weight)
            added.weight[0, -1] = 1.0
            assert added.bias is not None
            added.bias.zero_()
        return added

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, channels, H / stride, W / stride] of RGB [B, 3, H, W] in 0..255, multiples of 32."""
        return self.decode(self.trunk_maps(image))

    def trunk_maps(self, image: Tensor) -> list[Tensor]:
        """Returns the trunk's maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255."""
        with self.autocast(image):
            maps: list[Tensor] = self.trunk(image.flip(-1) if self.flipped else image)
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Returns features [B, channels, H / stride, W / stride] of the trunk's maps."""
        with self.autocast(maps[0]):
            decoded = self.decoder(maps)
        decoded, prior = self.unflipped(decoded.float()), self.prior
        if decoded.shape[2:] != prior.shape[2:]:
            prior = functional.interpolate(prior, decoded.shape[2:], mode="bilinear")
        if self.project is None:
            decoded[:, :1] += prior
            return decoded
        out: Tensor = self.project(torch.cat([decoded, prior.expand(len(decoded), -1, -1, -1)], dim=1))
        return out

    def unflipped(self, decoded: Tensor) -> Tensor:
        """A map [B, C, h, w] of images that may have been encoded mirrored, as the images are."""
        return decoded.flip(-1) if self.flipped else decoded

    def autocast(self, like: Tensor) -> torch.autocast:
        """Context in which the network computes, see `mixed`."""
        return torch.autocast(like.device.type, dtype=self.mixed or torch.bfloat16, enabled=self.mixed is not None)
