"""The trunk that sees depth: Depth Anything V2, whose relative inverse depth and maps the decoder makes metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.foundation.backbone import load_depth_network
from scene_completion_training.networks.trunk import Trunk

PRETRAINED = "depth-anything/Depth-Anything-V2-Small-hf"
"""On the model hub; a local folder of the same layout does as well, and larger ones of the family."""
STRIDE = 2
"""Pixels of the image to one of the maps."""


class DepthAnythingTrunk(Trunk):
    """Depth Anything (Yang et al. 2024): a transformer of the DINOv2 family, its DPT neck and its head.

    The image is resized to the nearest whole number of patches.

    Args:
        pretrained: Start from its weights; otherwise only its configuration is read.
        frozen_blocks: The embedding and so many first blocks keep their weights; neck and head always learn.
        weights: Hub name or local folder.

    Raises:
        ConfigurationError: No such model, or one of another type.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 12, weights: str = PRETRAINED) -> None:
        loaded = load_depth_network(weights, pretrained=pretrained)
        mean, deviation = loaded.normalisation.mean, loaded.normalisation.deviation
        super().__init__(channels=(loaded.network.config.fusion_hidden_size, 1), mean=mean, scale=deviation)
        self.patch = loaded.patch
        network: Any = loaded.network.requires_grad_(True)
        self.backbone, self.neck, self.head = network.backbone, network.neck, network.head
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

    def in_order(self) -> Iterable[nn.Module]:
        """The embedding, and then the blocks of the transformer."""
        # The list of blocks has another name in every version of transformers.
        lists = [module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)]
        return (self.backbone.embeddings, *max(lists, key=len))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of images [B, 3, H, W] in 0..255.

        Returns:
            At half the resolution of the image: what DPT fuses [B, C, H/2, W/2], and the inverse depth
            [B, 1, H/2, W/2] ≥ 0, known up to scale and shift.
        """
        height, width = (int(size) for size in image.shape[-2:])  # numbers, also where an export traces them
        rows, columns = max(1, round(height / self.patch)), max(1, round(width / self.patch))
        tokens = self.backbone.forward_with_filtered_kwargs(
            _resized(self.normalised(image), rows * self.patch, columns * self.patch)
        ).feature_maps
        fused = self.neck(tokens, rows, columns)
        depth = self.head(fused, rows, columns)[:, None]
        return [_resized(x, height // STRIDE, width // STRIDE) for x in (fused[-1], depth)]


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
