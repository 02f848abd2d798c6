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
SENSED_OFF = 0.1
"""Logarithm by which the depth of most pixels is off from that of a sensor, once all are scaled."""
_SENSED_SCALE_OFF = 0.02
"""Standard deviation of the logarithm of the scale that many depths of a sensor lead to."""
_FEW_SENSED = 20.0
"""Pixels with a depth of a sensor that say half as much of the scale as many."""
_SENSED_AROUND = (49, 17, 5)
"""Pixels across the surroundings, from far to near, in which a network is off by as much as where a sensor looks."""
_SENSED_REST = 0.5
"""Share of the doubt about a pixel that is left beside a depth of a sensor."""
_PLACES = (1, 2, 3)
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


class Measured(NamedTuple):
    """What a robot knows of the depths of an image besides; zeros where it knows nothing.

    Attributes:
        scale: Logarithm of the factor on what pixels say of depth, as its motion has it, and precision of that (one
            over the variance) [B, 2].
        depth: Logarithm of the depth that a sensor saw (metres), and precision of that [B, 2, h, w].
    """

    scale: Tensor
    depth: Tensor


def scaled(
    view: PixelView, spec: PointCodeSpec, ground: Tensor, kind: Ground, label: int, measured: Measured | None = None
) -> PixelView:
    """The view with all depths scaled by what is known of metres: by the mounting, by motion, by a sensor of depth.

    Eyes are off by a factor on streets that they do not know. The height of a camera above the road gives metres (the
    way monocular odometry recovers its scale), and so do the way that a robot went and depths that a sensor saw. The
    factor is the most probable one of all these and of what the eyes say, each with its precision; what is left of the
    doubt about it is added to that of each pixel, as is one that grows with depth. Only pixels that are more probably
    ground than all else count: a table that might be floor would halve the room. Nothing here is learned.

    Args:
        ground: As `PixelHead.forward` has it.
        label: Number of the class of the ground in those of the view.
        measured: What else is known; None for nothing.
    """
    inverse = spec.inverse_depth(view.code)
    by_ground, precision = _ground_scale(view, spec, ground, kind, label)
    total, weighed = 1.0 / kind.eyes_off**2 + precision, precision * by_ground
    if measured is not None:
        motion = measured.scale[:, :, None, None]
        by_sensor, of_sensor = _sensor_scale(inverse, measured.depth)
        total = total + motion[:, 1:] + of_sensor
        weighed = weighed + motion[:, 1:] * motion[:, :1] + of_sensor * by_sensor
    deviation = (view.deviation**2 + 1.0 / total + (FAR_OFF / inverse.clamp_min(1.0 / spec.far)) ** 2).sqrt()
    inverse = inverse * (-weighed / total).exp()
    if measured is not None:
        inverse, deviation = _joined(inverse, deviation, measured.depth)
    return view._replace(code=spec.depth_code_of_inverse(inverse), deviation=deviation)


def _ground_scale(
    view: PixelView, spec: PointCodeSpec, ground: Tensor, kind: Ground, label: int
) -> tuple[Tensor, Tensor]:
    """Logarithm of the factor by which the road lies where the mounting says, and its precision [B, 1, 1, 1]."""
    inverse, level = spec.inverse_depth(view.code), spec.inverse_depth(ground[:, :1])
    off = (inverse.clamp_min(1e-3) / level.clamp_min(1e-3)).log()
    near = ((level > 1.0 / kind.farthest) & (level < 1.0 / kind.nearest) & (off.abs() < _MOST_OFF)) * ground[:, 1:]
    nearness = (level / level.amax(dim=_PLACES, keepdim=True).clamp_min(1e-3)) ** 2
    shown = (2.0 * view.classes.detach().softmax(dim=1)[:, label : label + 1] - 1.0).clamp_min(0.0)
    weight = near * shown * nearness
    mean = _robust_mean(off, weight, STATED_OFF)
    seen = weight.mean(dim=_PLACES, keepdim=True)
    # The road says all that it can where there is enough of it, and beside the eyes it weighs by that share.
    gain = kind.eyes_off**2 / (kind.eyes_off**2 + STATED_OFF**2) * seen / (seen + _LEAST_GROUND)
    return mean, gain / (1.0 - gain) / kind.eyes_off**2


def _sensor_scale(inverse: Tensor, sensed: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the factor that leads to the depths of a sensor, and its precision [B, 1, 1, 1]."""
    known = (sensed[:, 1:] > 0.0).float()
    off = (sensed[:, :1] + inverse.clamp_min(1e-3).log()) * known
    count = known.sum(dim=_PLACES, keepdim=True)
    return _robust_mean(off, known, SENSED_OFF), count / (count + _FEW_SENSED) / _SENSED_SCALE_OFF**2


def _robust_mean(off: Tensor, weight: Tensor, spread: float) -> Tensor:
    """Weighted mean [B, 1, 1, 1] that what is off by more than `spread` hardly moves: things that stand on the road."""
    total = weight.sum(dim=_PLACES, keepdim=True).clamp_min(1e-6)
    mean = (weight * off).sum(dim=_PLACES, keepdim=True) / total
    for _ in range(2):
        fitting = weight / (1.0 + ((off - mean) / spread) ** 2)
        mean = (fitting * off).sum(dim=_PLACES, keepdim=True) / fitting.sum(dim=_PLACES, keepdim=True).clamp_min(1e-6)
    return mean


def _joined(inverse: Tensor, deviation: Tensor, sensed: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depth and deviation with what a sensor saw, at its pixels and, less surely, between and around them.

    Errors of a network are alike in neighbouring pixels: what is off where the sensor looks is off between its beams.
    """
    precision = sensed[:, 1:]
    known = (precision > 0.0).float()
    off = (sensed[:, :1] + inverse.clamp_min(1e-3).log()) * known  # logarithm of true depth over that of the network
    aside, trusted = torch.zeros_like(off), torch.zeros_like(off)
    for size in _SENSED_AROUND:  # from far to near
        pooled = size**2 * torch.cat([off, known], dim=1)
        for window in ((size, 1), (1, size)):  # one after the other: a window of 49 x 49 takes a tenth of the time
            pooled = functional.avg_pool2d(pooled, window, 1, (window[0] // 2, window[1] // 2))
        share = pooled[:, 1:] / (pooled[:, 1:] + 1.0)
        aside = aside + share * (pooled[:, :1] / pooled[:, 1:].clamp_min(1.0) - aside)
        trusted = share
    around = deviation * (1.0 - (1.0 - _SENSED_REST) * trusted)
    own = 1.0 / around**2
    total = own + precision
    moved = aside + precision / total * (off - aside) * known
    positive = torch.where(trusted + known > 0.0, inverse.clamp_min(1e-3), inverse)
    return positive * (-moved).exp(), total.rsqrt()
