"""What an image trunk is to the decoder: maps at strides 2 to 32, and a normalisation of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """Base of the trunks; BatchNorm stays at its ImageNet statistics.

    Training runs at batches of few images, where batch statistics are noise; the affine parameters still learn.

    Args:
        channels: Channels of the maps: at strides 2, 4, 8, 16 and 32, where a trunk does not say otherwise.
        mean: Subtracted from RGB in 0..255.
        scale: What the difference is divided by.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        mean: tuple[float, float, float],
        scale: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.channels = channels
        self.mean = mean
        self.scale = scale
        self._mean: Tensor
        self._scale: Tensor
        for name, values in (("_mean", mean), ("_scale", scale)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> Trunk:
        """Sets the training mode of everything but BatchNorm, which always evaluates.

        Trunks call it when they are made: a trainer need not, and BatchNorm would then start in its training mode.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first blocks as they are; 0 lets everything learn."""
        raise NotImplementedError

    def normalised(self, image: Tensor) -> Tensor:
        """Returns RGB images [B, 3, H, W] in 0..255 as the trunk was pretrained on."""
        return (image - self._mean) / self._scale

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255; H and W multiples of 32."""
        raise NotImplementedError
