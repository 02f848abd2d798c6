"""The full-size trunk of Behind the Scenes: ResNet-50 (He et al. 2016)."""

from __future__ import annotations

from torch import Tensor

from scene_completion_training.networks.trunk import Trunk

PRETRAINED = "microsoft/resnet-50"
"""ImageNet weights on the model hub; a local folder of the same layout does as well."""


class ResNetTrunk(Trunk):
    """ResNet-50 without its classifier.

    Args:
        pretrained: Start from ImageNet weights.
        frozen_blocks: The stem and so many of the four stages keep them (only when pretrained).
        weights: Hub name or local folder they are read from.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 0, weights: str = PRETRAINED) -> None:
        super().__init__(
            channels=(64, 256, 512, 1024, 2048), mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)
        )
        from transformers import ResNetConfig, ResNetModel

        network = ResNetModel.from_pretrained(weights) if pretrained else ResNetModel(ResNetConfig())
        self.stem = network.embedder.embedder
        self.pool = network.embedder.pooler
        self.stages = network.encoder.stages
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first of the four stages as they are; 0 lets everything learn."""
        self.requires_grad_(True)
        for module in (self.stem, *self.stages[:blocks]) if blocks else ():
            module.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255."""
        maps = [self.stem(self.normalised(image))]
        out = self.pool(maps[0])
        for stage in self.stages:
            out = stage(out)
            maps.append(out)
        return maps
