"""The hierarchical U-net of masked scene modelling (MSM, HUNet), small: features of voxels on every level."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import JsonObject
from scene_completion_training.settings import made
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, down, random_kernel, submanifold, up

MOST = 16  # levels, and blocks of a level: files that name more are refused before memory is taken
WINDOW = 1024  # voxels that attend to each other, as in the release of MSM
HEAD = 32  # channels of a head; narrower layers have one head
LAYER_SCALE = 0.1


@dataclass(frozen=True)
class HUNetSettings:
    """Size of a `VoxelHUNet`."""

    inputs: int  # features of an occupied voxel. Coordinates are not among them
    encoder: tuple[int, ...] = (32, 64, 128, 192)  # channels of the encoder's levels, finest first
    decoder: tuple[int, ...] = (64, 96, 128, 192)  # channels of the decoder's levels, finest first
    blocks: int = 1  # residual blocks a level, in the encoder and in the decoder
    # Of the levels, so many of the coarsest have two blocks of attention behind these; 2 as published, -1 for all.
    attending: int = 0

    def __post_init__(self) -> None:
        """Raises `ConfigurationError` where no network can have this size."""
        if len(self.encoder) != len(self.decoder) or not self.encoder:
            what = f"the encoder has {len(self.encoder)} levels, the decoder {len(self.decoder)}"
            cure = "Give both the same number of channels, at least one"
            raise ConfigurationError(what, where="masked scene network", cure=cure)
        blocks = self.blocks + (self.attending < 0)  # attention alone is a block, too
        least, most = min(self.inputs, blocks, *self.encoder, *self.decoder), max(self.levels, blocks)
        if least < 1 or self.blocks < 0 or most > MOST or not -1 <= self.attending <= self.levels:
            cure = f"Give positive numbers, at most {MOST} levels and blocks, and no more attending levels than levels"
            raise ConfigurationError(f"sizes that cannot be in {self}", where="masked scene network", cure=cure)

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.encoder)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "HUNetSettings":
        """The settings of such values; a ConfigurationError if one is of another version, or contradicts others."""
        cure = "Train it with this version"
        return made(cls, JsonObject(plain, "masked scene network", kind=ConfigurationError, cure=cure))


class VoxelHUNet(nn.Module):
    """A sparse U-net whose decoder gives features on every level (HUNet of Masked Scene Modeling, its supplement).

    Blocks, norms and scales are those of the release, the default widths are of this project; there is no drop path.
    Voxels enter without coordinates, as there: features describe what is around a voxel, not where it is.
    """

    def __init__(self, settings: HUNetSettings) -> None:
        super().__init__()
        self.settings = settings
        encoder, decoder = settings.encoder, settings.decoder
        self.stem = nn.Sequential(nn.Linear(settings.inputs, encoder[0]), nn.RMSNorm(encoder[0]))
        self.downs = nn.ModuleList(Step(down, 8 / 3, c, d) for c, d in itertools.pairwise(encoder))
        self.ups = nn.ModuleList(Step(up, 1, c, d) for d, c in itertools.pairwise(decoder))
        first = settings.levels - settings.attending if settings.attending >= 0 else 0
        self.encoders, self.decoders = (
            nn.ModuleList(Level(settings.blocks, width, level >= first) for level, width in enumerate(widths))
            for widths in (encoder, decoder)
        )
        pairs = zip(encoder, decoder, strict=True)
        self.skips = nn.ModuleList(nn.Sequential(nn.RMSNorm(c), nn.Linear(c, d)) for c, d in pairs)
        self.skip_scales = nn.ParameterList(torch.ones(width) for width in decoder[:-1])
        self.tokens = nn.ParameterList(0.02 * torch.randn(width) for width in decoder)

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the features of each level, finest first."""
        return self.settings.decoder

    def forward(self, features: Tensor, pyramid: Pyramid, visible: Pyramid | None = None) -> list[Tensor]:
        """Features [N_l, decoder[l]] of each level of a pyramid, finest first.

        `features`: [N, inputs] of its finest voxels, or of those of `visible`: what the encoder sees of it. Where a
        voxel of a level holds none of these, the decoder starts from that level's learnable token.
        """
        skips = self.encode(features, pyramid if visible is None else visible)
        if visible is not None:
            of_levels = zip(skips, self.tokens, visible.levels, pyramid.levels, strict=True)
            skips = [_with_token(*of_level) for of_level in of_levels]
        decoded = [self.decoders[-1](skips[-1], pyramid.levels[-1])]
        for level in reversed(range(self.settings.levels - 1)):
            fine = pyramid.levels[level]
            rise = self.ups[level](decoded[-1], fine, pyramid.parents[level])
            decoded.append(self.decoders[level](rise + self.skip_scales[level] * skips[level], fine))
        return decoded[::-1]

    def encode(self, features: Tensor, pyramid: Pyramid) -> list[Tensor]:
        """What the decoder is given of each level, [N_l, decoder[l]], finest first."""
        x = self.encoders[0](self.stem(features), pyramid.levels[0])
        skips = [self.skips[0](x)]
        for level, coarser in enumerate(self.downs):
            fine, coarse = pyramid.levels[level : level + 2]
            x = self.encoders[level + 1](coarser(x, fine, coarse, pyramid.parents[level]), coarse)
            skips.append(self.skips[level + 1](x))
        return skips


class Level(nn.Module):
    """Residual blocks of one level, and attention behind them where voxels attend to each other."""

    def __init__(self, blocks: int, width: int, attends: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.blocks.extend(SerialisedAttention(width, exchanged) for exchanged in (False, True) if attends)

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, C]."""
        for block in self.blocks:
            x = block(x, voxels)
        return x


class ResidualBlock(nn.Module):
    """x + s · norm(conv(GELU(conv(norm(x))))), with submanifold convolutions and a learnable s a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.RMSNorm(width), nn.RMSNorm(width)
        self.first, self.second = (nn.Parameter(random_kernel(27, 9, width, width)) for _ in range(2))
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, C]."""
        hidden = functional.gelu(submanifold(self.before(x), self.first, voxels))
        change: Tensor = self.after(submanifold(hidden, self.second, voxels))
        return x + self.scale * change


class Step(nn.Module):
    """From one level to the next, by `down` to the coarser or by `up` to the finer one."""

    def __init__(self, move: Callable[..., Tensor], taken: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.move, self.norm = move, nn.RMSNorm(inputs)
        self.weight = nn.Parameter(random_kernel(8, taken, inputs, outputs))

    def forward(self, x: Tensor, *place: VoxelSet | Tensor) -> Tensor:
        """Features [N, C] of one level to [M, D] of the other; `place`: what the function takes besides."""
        return self.move(self.norm(x), self.weight, *place)


def _with_token(features: Tensor, token: Tensor, some: VoxelSet, every: VoxelSet) -> Tensor:
    """Features of some voxels [n, C] in their rows of a table of all voxels [N, C], the token [C] in all other rows."""
    rows = every.find(some.index)
    assert (rows >= 0).all(), "visible voxels are not among all voxels"
    return token.to(features.dtype).expand(len(every), -1).index_copy(0, rows, features)


class SerialisedAttention(nn.Module):
    """x + s · attention(norm(x)) within windows along the curve, then x + s · GEGLU(norm(x)), without biases.

    Source: the serialised attention of Point Transformer V3, as MSM's release has it; without dropout and Hilbert's
    curve. Voxels have no positions: what is near is in the window, and convolutions give how things lie.
    `width`: C; `exchanged`: the curve has x and y exchanged, so that its windows end elsewhere.
    """

    def __init__(self, width: int, exchanged: bool) -> None:
        super().__init__()
        self.exchanged = exchanged
        self.heads = math.gcd(width, max(1, width // HEAD))
        self.norm, self.second_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.scale, self.second_scale = (nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2))

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, C]."""
        if not len(x):
            return x
        rows = windows(voxels, self.exchanged)
        there = rows >= 0
        taken: Tensor = self.inward(self.norm(x))[rows.clamp(min=0)]
        query, key, value = taken.view(*rows.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        answer = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None])
        answer = answer.transpose(1, 2).flatten(2)[there][rows[there].argsort()]
        x = x + self.scale * self.outward(answer)
        wide, gate = self.widen(self.second_norm(x)).chunk(2, dim=-1)
        deeper: Tensor = self.narrow(wide * functional.gelu(gate))
        return x + self.second_scale * deeper


def windows(voxels: VoxelSet, exchanged: bool, size: int = WINDOW) -> Tensor:
    """Rows [W, at most size] of the voxels of each window, -1 at the end of what is not full.

    No window holds voxels of two scenes; those of one scene have nearly the same size.
    """
    scene, place = voxels.index[:, 0], voxels.index[:, 1:]
    bits = max(max(voxels.shape) - 1, 1).bit_length()
    order = ((scene << (3 * bits)) + z_order(place[:, [1, 0, 2]] if exchanged else place, bits)).argsort()
    parts: list[Tensor] = []
    for part in order.split_with_sizes(torch.bincount(scene).tolist()):
        parts += [*part.tensor_split(-(-len(part) // size))] if len(part) else []
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


def z_order(place: Tensor, bits: int) -> Tensor:
    """Where cells [N, 3] of a cube of 2^bits cells along each axis come on the curve [N]: their bits interleaved."""
    position = torch.zeros_like(place[:, 0])
    for bit in range(bits):
        for axis in range(3):
            position |= (place[:, axis] >> bit & 1) << (3 * bit + 2 - axis)
    return position
