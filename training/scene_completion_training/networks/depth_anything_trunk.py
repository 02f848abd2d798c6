"""The trunk that sees depth: Depth Anything V2, whose relative inverse depth and maps the decoder makes metric."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.foundation.backbone import load_network
from scene_completion_training.networks.trunk import Trunk

# On the model hub; a local folder of the same layout does as well, and larger ones of the family.
PRETRAINED = "depth-anything/Depth-Anything-V2-Small-hf"
STRIDE = 2  # pixels of the image to one of the maps


class DepthAnythingTrunk(Trunk):
    """Depth Anything (Yang et al. 2024): a transformer of the DINOv2 family, its DPT neck and its head.

    The image is resized to the nearest whole number of patches. Raises ConfigurationError: no such model, or one of
    another type; BundleError: weights that are missing, damaged, of another network, or only pickled. `pretrained`:
    start from its weights; otherwise only its configuration is read; `frozen_blocks`: the embedding and so many first
    blocks keep their weights; neck and head always learn; `weights`: hub name or local folder.
    """

    def __init__(self, *, pretrained: bool = True, frozen_blocks: int = 12, weights: str = PRETRAINED) -> None:
        loaded = load_network(weights, pretrained=pretrained, whole=True)
        mean, deviation = loaded.normalisation.mean, loaded.normalisation.deviation
        super().__init__(channels=(loaded.network.config.fusion_hidden_size, 1), mean=mean, scale=deviation)
        self.patch = loaded.patch
        self.token_width = int(loaded.network.config.backbone_config.hidden_size)
        network: Any = loaded.network.requires_grad_(True)
        self.backbone, self.neck, self.head = network.backbone, network.neck, network.head
        self._taps = tuple(network.config.backbone_config.out_indices)
        self._fixed_blocks = 0
        if pretrained:
            self.freeze(frozen_blocks)
        self.train()

    def freeze(self, blocks: int) -> None:
        """Keeps the embedding and the first blocks as they are, and the norm behind them; 0 lets everything learn."""
        super().freeze(blocks)
        self.backbone.layernorm.requires_grad_(not blocks)
        self._fixed_blocks = min(blocks, len(list(self.in_order())) - 1)

    def in_order(self) -> Iterable[nn.Module]:
        """The embedding, and then the blocks of the transformer."""
        # The list of blocks has another name in every version of transformers.
        lists = [module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)]
        return (self.backbone.embeddings, *max(lists, key=len))

    def rates(self) -> list[tuple[nn.Module, float]]:
        """The blocks of a transformer learn five times more slowly than the neck, a layer of which may be missing."""
        return [(self.backbone, 0.2), (self.neck, 1.0), (self.head, 1.0)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps of images [B, 3, H, W] in 0..255.

        Returns at half the resolution of the image: what DPT fuses [B, C, H/2, W/2], and the inverse depth [B, 1, H/2,
        W/2] ≥ 0, known up to scale and shift.
        """
        height, width = (int(size) for size in image.shape[-2:])  # numbers, also where an export traces them
        return self.maps_of_fixed(self.fixed(image), (height, width))

    @property
    def keeps(self) -> bool:
        """Whether any block is frozen."""
        return self._fixed_blocks > 0

    def fixed(self, image: Tensor) -> list[Tensor]:
        """Hidden states [B, T, D] that frozen blocks make of images [B, 3, H, W]: of the taps, and the last one."""
        rows, columns = self._patches((int(image.shape[-2]), int(image.shape[-1])))
        state = self.backbone.embeddings(_resized(self.normalised(image), rows * self.patch, columns * self.patch))
        blocks = list(self.in_order())[1 : 1 + self._fixed_blocks]
        states = []
        for number, block in enumerate(blocks, start=1):
            state = _state(block(state))
            if number in self._taps and number < len(blocks):
                states.append(state)
        return [*states, state]

    def with_tokens(self, image: Tensor) -> list[Tensor]:
        """What `forward` gives, and the tokens of the last block [B, D, rows, columns]."""
        height, width = (int(size) for size in image.shape[-2:])
        return self.maps_and_tokens(self.fixed(image), (height, width))

    def maps_of_fixed(self, fixed: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """What `forward` gives, of the hidden states."""
        return self.maps_and_tokens(fixed, size)[:2]

    def maps_and_tokens(self, fixed: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """What `with_tokens` gives, of the hidden states."""
        height, width = size
        rows, columns = self._patches(size)
        first, state = self._fixed_blocks, fixed[-1]
        tapped = [*fixed[:-1], *([state] if first in self._taps else [])]
        for number, block in enumerate(list(self.in_order())[1 + first :], start=first + 1):
            state = _state(block(state))
            if number in self._taps:
                tapped.append(state)
        normed = [self.backbone.layernorm(tokens) for tokens in tapped]
        fused = self.neck(normed, rows, columns)
        depth = self.head(fused, rows, columns)[:, None]
        maps = [_resized(x, height // STRIDE, width // STRIDE) for x in (fused[-1], depth)]
        last = normed[-1][:, 1:].transpose(1, 2)  # without the class token
        return [*maps, last.reshape(len(last), -1, rows, columns)]

    def _patches(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the patches of images of a size (H, W)."""
        rows, columns = (max(1, round(edge / self.patch)) for edge in size)
        return rows, columns


def _state(out: Any) -> Tensor:
    """Hidden state that a block gives: some versions of transformers wrap it in a tuple."""
    return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
