"""What each pixel says: how far it sees and how surely, of which class that is, and features for the decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.networks.encoder_decoder import MetricDecoder, pixel_places

TOKEN_WIDTH = 48
"""Channels that the tokens of the trunk are reduced to before they are brought to the size of the map."""
_LOG_DEVIATION = -2.3
"""Of the logarithm of depth, at the start: about a tenth."""


class PixelView(NamedTuple):
    """What pixels say.

    Attributes:
        features: [B, C, h, w].
        code: Inverse depth code [B, 1, h, w], see `PointCodeSpec`.
        deviation: Standard deviation of the logarithm of depth [B, 1, h, w].
        classes: Logits of the classes behind "empty", and of the sky behind them [B, K + 1, h, w].
    """

    features: Tensor
    code: Tensor
    deviation: Tensor
    classes: Tensor


class PixelHead(nn.Module):
    """From the maps of a `DepthAnythingTrunk` to a `PixelView` at half the resolution of the image.

    It starts as the `MetricDecoder` that it takes the place of, which has learned metres. What it is told besides is
    ignored at first: the tokens of the last block, which know what things are, and how far the pixel would see if the
    ground were a plane and the camera stood where it is said to stand.

    Args:
        size: Height and width of the maps.
        channels: Channels of the trunk's fused map.
        tokens: Channels of its tokens.
        classes: Classes behind "empty".
        width: Channels that come out.
    """

    def __init__(
        self, size: tuple[int, int], *, channels: int = 64, tokens: int = 384, classes: int = 15, width: int = 64
    ) -> None:
        super().__init__()
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(1, 1, *size))
        self.tokens = nn.Sequential(nn.Conv2d(tokens, TOKEN_WIDTH, 1), nn.GELU())
        self.told = channels + 4
        self.merge = nn.Sequential(
            nn.Conv2d(self.told + 2 + TOKEN_WIDTH, width, 3, padding=1),
            nn.ELU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ELU(inplace=True),
        )
        self.features = nn.Conv2d(width, width, 1)
        self.code = nn.Conv2d(width + 1, 1, 1)
        self.deviation = nn.Conv2d(width, 1, 1)
        self.classes = nn.Sequential(
            nn.Conv2d(width + TOKEN_WIDTH, width, 3, padding=1),
            nn.ELU(inplace=True),
            nn.Conv2d(width, classes + 1, 1),
        )
        with torch.no_grad():
            self.merge[0].weight[:, self.told :] *= 0.0  # type: ignore[operator, index]
            self.code.weight.zero_()
            self.code.weight[0, -1] = 1.0
            self.deviation.weight.zero_()
            for layer, value in ((self.code, 0.0), (self.deviation, _LOG_DEVIATION)):
                nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]

    @torch.no_grad()
    def take(self, decoder: MetricDecoder, project: nn.Conv2d, prior: Tensor) -> None:
        """Starts as a decoder that has learned metric depth, with the convolution behind it and the mean depth."""
        first, second = decoder.merge[0][0], decoder.merge[1][0]  # type: ignore[index]
        self.merge[0].weight[:, : self.told] = first.weight  # type: ignore[operator, index]
        self.merge[0].bias.copy_(first.bias)  # type: ignore[operator, union-attr]
        self.merge[2].load_state_dict(second.state_dict())
        self.features.weight.copy_(project.weight[: len(self.features.weight), :-1])
        self.features.bias.copy_(project.bias[: len(self.features.weight)])  # type: ignore[union-attr, index]
        self.code.weight.copy_(project.weight[:1])
        self.code.bias.copy_(project.bias[:1])  # type: ignore[union-attr, index]
        self.prior.copy_(prior)

    def forward(self, fused: Tensor, relative: Tensor, tokens: Tensor, ground: Tensor) -> PixelView:
        """What pixels say.

        Args:
            fused: Fused map of the trunk [B, C, h, w].
            relative: Its relative inverse depth [B, 1, h, w].
            tokens: Tokens of its last block [B, T, rows, columns].
            ground: Inverse depth code of a level ground, 0 above the horizon, and whether anybody knows where the
                camera stands [B, 2, h, w].
        """
        size = (fused.shape[2], fused.shape[3])
        even = relative / (relative.mean(dim=(2, 3), keepdim=True) + 1e-3)
        known = functional.interpolate(self.tokens(tokens), size, mode="bilinear", align_corners=False)
        seen = torch.cat([fused, 0.1 * relative, even, pixel_places(relative), ground, known], dim=1)
        merged = self.merge(seen)
        code = self.code(torch.cat([merged, self.prior.expand(len(merged), -1, -1, -1).to(merged.dtype)], dim=1))
        return PixelView(
            self.features(merged),
            code.float(),
            self.deviation(merged).float().clamp(-4.0, 0.0).exp(),
            self.classes(torch.cat([merged, known], dim=1)).float(),
        )
