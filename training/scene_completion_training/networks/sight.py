"""What each pixel says: how far it sees and how surely, and of which class that is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_training.networks.encoder_decoder import MetricDecoder, pixel_places

TOKEN_WIDTH = 48
"""Channels that the tokens of the trunk are reduced to before they are brought to the size of the map."""
SHIFT = 0.1
"""Unit of the shift of an image's inverse depths, in the nearest one."""
MOST_ASIDE = 0.5
"""Largest logarithm of the factor on the depth of one pixel."""
STATED_OFF = 0.03
"""By how much the depths of a level ground that the stated mounting leads to are off, a share; standard deviation."""
FAR_OFF = 0.005
"""By how much depth is off beside that, for each metre of it: heads are too sure of streets that they did not learn
from. With it, the mean of |error| / σ at 12 to 60 m of window 04 is 0.7 and 0.9, as without it of window 05, which they
learned from."""
_LEAST_GROUND = 0.01
"""Mean weight of the pixels of an image, its nearest road 1, at which the road says half of what it can say."""
_MOST_OFF = 0.5
"""Logarithm of depth from which what pixels see is a table or a ditch, and no ground at another scale."""
_LOG_DEVIATION = -2.3
"""Of the logarithm of depth, at the start: about a tenth."""


class Ground(NamedTuple):
    """What cameras of a world stand on, and how far it says what is a metre."""

    name: str  # of its class
    # Where it is taken to be level with the place of the camera, metres: a grade of a road or a pitch matters little
    # there.
    nearest: float
    farthest: float
    eyes_off: float  # by how much all depths of an image that nobody trained on are off, a share; standard deviation


ROAD, FLOOR = Ground("road", 2.0, 12.0, 0.1), Ground("floor", 0.3, 6.0, 0.2)


class PixelView(NamedTuple):
    """What pixels say.

    Attributes:
        code: Inverse depth code [B, 1, h, w], see `PointCodeSpec`.
        deviation: Standard deviation of the logarithm of depth [B, 1, h, w].
        classes: Logits of the classes behind "empty", and of the sky behind them [B, K + 1, h, w].
        told: 1 where somebody says how the camera stands, otherwise 0 [B, 1, 1, 1].
    """

    code: Tensor
    deviation: Tensor
    classes: Tensor
    told: Tensor


class PixelHead(nn.Module):
    """From the maps of a `DepthAnythingTrunk` to a `PixelView` at half the resolution of the image.

    Depth is that of a `MetricDecoder`, which begins as that of the eyes, times a factor for each image and a smaller
    one for each pixel: eyes know one height above the ground, and see all streets from there. In rooms inverse depths
    are shifted as well: a trunk that nobody trained on knows them up to both. Where the camera is said to stand, each
    pixel is told how far it would see if the ground were a plane; tokens of the last block know what
    things are. Where they have a branch of their own, it is wide enough for classes that few pixels show. They may be
    kept from depth: what they know of the size of rendered things does not hold of real ones.

    Args:
        size: Height and width of the maps.
        spec: Point code of the depths.
        channels: Channels of the trunk's fused map.
        tokens: Channels of its tokens.
        classes: Classes behind "empty".
        width: Channels inside.
        shifted: Inverse depths of an image get a shift beside their factor.
        naming: Channels of a branch that tells classes by the tokens alone; 0: there is none.
        merging: Tokens go into what depth, its doubt and classes follow from.
    """

    def __init__(
        self,
        size: tuple[int, int],
        spec: PointCodeSpec,
        *,
        channels: int = 64,
        tokens: int = 384,
        classes: int = 15,
        width: int = 64,
        shifted: bool = False,
        naming: int = 0,
        merging: bool = True,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(1, 1, *size))
        self.metric = MetricDecoder(channels, width)
        self.code = nn.Conv2d(width + 1, 1, 1)
        self.tokens = nn.Sequential(nn.Conv2d(tokens, TOKEN_WIDTH, 1), nn.GELU()) if merging else None
        self.merge = nn.Sequential(
            nn.Conv2d(width + 4 + TOKEN_WIDTH * merging, width, 3, padding=1),
            nn.ELU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ELU(inplace=True),
        )
        self.attention = nn.Conv2d(width, 1, 1)
        self.factor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1 + shifted))
        self.aside = nn.Conv2d(width, 1, 1)
        self.deviation = nn.Conv2d(width, 1, 1)
        self.classes = nn.Conv2d(width, classes + 1, 1)
        self.naming: nn.Sequential | None = None
        if naming:
            self.naming = nn.Sequential(
                nn.Conv2d(tokens, naming, 1),
                nn.GELU(),
                nn.Conv2d(naming, naming, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(naming, classes + 1, 1),
            )
            nn.init.zeros_(self.naming[-1].weight)  # type: ignore[arg-type]  # weights without it mean the same
            nn.init.zeros_(self.naming[-1].bias)  # type: ignore[arg-type]
        for layer, value in ((self.factor[2], 0.0), (self.aside, 0.0), (self.deviation, _LOG_DEVIATION)):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]

    @torch.no_grad()
    def take(self, decoder: MetricDecoder, project: nn.Conv2d, prior: Tensor) -> None:
        """Takes the metric depth of eyes: their decoder, the convolution behind it, and the mean depth."""
        self.metric.load_state_dict(decoder.state_dict())
        self.code.weight.copy_(project.weight[:1])
        self.code.bias.copy_(project.bias[:1])  # type: ignore[union-attr, index]
        self.prior.copy_(prior)

    def forward(self, fused: Tensor, relative: Tensor, tokens: Tensor, ground: Tensor) -> PixelView:
        """What pixels say.

        Args:
            fused: Fused map of the trunk [B, C, h, w].
            relative: Its relative inverse depth [B, 1, h, w].
            tokens: Tokens of its last block [B, T, rows, columns].
            ground: Inverse depth code of a level ground, 0 where nobody knows it, and whether anybody knows where the
                camera stands [B, 2, h, w].
        """
        size = (fused.shape[2], fused.shape[3])
        metric = self.metric([fused, relative])
        with torch.autocast(fused.device.type, enabled=False):  # in bfloat16, what is 50 m away would be 3 % off
            code = self.code(torch.cat([metric.float(), self.prior.expand(len(fused), -1, -1, -1)], dim=1))
        told = [metric, code, pixel_places(relative)[:, 1:], ground]
        if self.tokens is not None:
            told.append(functional.interpolate(self.tokens(tokens), size, mode="bilinear", align_corners=False))
        merged = self.merge(torch.cat(told, dim=1))
        attention = self.attention(merged).flatten(2).float().softmax(dim=2)
        image = self.factor((attention @ merged.flatten(2).transpose(1, 2).float())[:, 0])[..., None, None].float()
        factor = image[:, :1] + MOST_ASIDE * torch.tanh(self.aside(merged).float())
        shift = SHIFT / self.spec.near * image[:, 1:].sum(dim=1, keepdim=True)
        nearer = self.spec.depth_code_of_inverse(self.spec.inverse_depth(code) * factor.exp() + shift)
        classes = self.classes(merged).float()
        if self.naming is not None:
            named = self.naming(tokens).float()
            classes = classes + functional.interpolate(named, size, mode="bilinear", align_corners=False)
        return PixelView(nearer, self.deviation(merged).float().clamp(-4.0, 0.0).exp(), classes, ground[:, 1:, :1, :1])


def scaled_by_ground(view: PixelView, spec: PointCodeSpec, ground: Tensor, kind: Ground, label: int) -> PixelView:
    """The view with all depths scaled so that the road before a camera lies where its mounting says.

    Eyes are off by a factor on streets that they do not know; the height of a camera above the road gives metres (the
    way monocular odometry recovers its scale). The factor is the more probable one of what the eyes say and what the
    road says, and what is left of the doubt about it is added to that of each pixel, as is one that grows with depth.
    Only pixels that are more probably ground than all else count: a table that might be floor would halve the room.
    Nothing here is learned.

    Args:
        ground: As `PixelHead.forward` has it.
        label: Number of the class of the ground in those of the view.
    """
    inverse = spec.inverse_depth(view.code)
    level = spec.inverse_depth(ground[:, :1])
    off = (inverse.clamp_min(1e-3) / level.clamp_min(1e-3)).log()
    near = ((level > 1.0 / kind.farthest) & (level < 1.0 / kind.nearest) & (off.abs() < _MOST_OFF)) * ground[:, 1:]
    places = (1, 2, 3)
    nearness = (level / level.amax(dim=places, keepdim=True).clamp_min(1e-3)) ** 2
    shown = (2.0 * view.classes.detach().softmax(dim=1)[:, label : label + 1] - 1.0).clamp_min(0.0)
    weight = near * shown * nearness
    total = weight.sum(dim=places, keepdim=True).clamp_min(1e-6)
    mean = (weight * off).sum(dim=places, keepdim=True) / total
    for _ in range(2):  # what stands on the road is not the road
        fitting = weight / (1.0 + ((off - mean) / STATED_OFF) ** 2)
        mean = (fitting * off).sum(dim=places, keepdim=True) / fitting.sum(dim=places, keepdim=True).clamp_min(1e-6)
    seen = weight.mean(dim=places, keepdim=True)
    gain = kind.eyes_off**2 / (kind.eyes_off**2 + STATED_OFF**2) * seen / (seen + _LEAST_GROUND)
    left = kind.eyes_off**2 * (1.0 - gain)
    return view._replace(
        code=spec.depth_code_of_inverse(inverse * (-gain * mean).exp()),
        deviation=(view.deviation**2 + left + (FAR_OFF / inverse.clamp_min(1.0 / spec.far)) ** 2).sqrt(),
    )
