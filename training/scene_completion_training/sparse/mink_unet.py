"""MinkUNet18A: the sparse residual U-net that OpenScene and CUA-O3D distil into (Choy et al., CVPR 2019)."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, down, random_kernel, submanifold, up

STEM = 32
# Channels of the stages behind each step down, finest first, and behind each step up, coarsest first.
ENCODER, DECODER = (32, 64, 128, 256), (128, 128, 96, 96)
LEVELS = len(ENCODER) + 1
BLOCKS = 2  # blocks of a stage


class MinkUNet18A(nn.Module):
    """A stem with a kernel of edge 5, four steps down and four up with concatenated skips, two blocks a stage.

    BatchNorm and ReLU follow each convolution, and none of them has a bias. `inputs`: features of a voxel; `encoder`,
    `decoder`: channels, as `ENCODER` and `DECODER`, of which tests take fewer.
    """

    def __init__(
        self, inputs: int, stem: int = STEM, encoder: tuple[int, ...] = ENCODER, decoder: tuple[int, ...] = DECODER
    ) -> None:
        super().__init__()
        self.channels = decoder[-1]
        skips = (stem, *encoder[:-1])  # of each level but the coarsest
        self.stem = Convolution(125, 10, inputs, stem)
        self.downs = nn.ModuleList(Step(down, 8 / 3, width, width) for width in skips)
        self.encoders = nn.ModuleList(Stage(c, d) for c, d in itertools.pairwise((stem, *encoder)))
        coarse = (encoder[-1], *decoder[:-1])
        self.ups = nn.ModuleList(Step(up, 1, c, d) for c, d in zip(coarse, decoder, strict=True))
        self.decoders = nn.ModuleList(Stage(d + s, d) for d, s in zip(decoder, skips[::-1], strict=True))

    def forward(self, features: Tensor, pyramid: Pyramid) -> Tensor:
        """Features [N, channels] of the finest voxels, of inputs [N, inputs]."""
        x: Tensor = self.stem(features, pyramid.levels[0])
        skips = []
        for level, (step, stage) in enumerate(zip(self.downs, self.encoders, strict=True)):
            skips.append(x)
            fine, coarse = pyramid.levels[level : level + 2]
            x = stage(step(x, fine, coarse, pyramid.parents[level]), coarse)
        for level, step, stage in zip(reversed(range(len(skips))), self.ups, self.decoders, strict=True):
            fine = pyramid.levels[level]
            x = stage(torch.cat([step(x, fine, pyramid.parents[level]), skips[level]], dim=1), fine)
        return x


class Convolution(nn.Module):
    """Weights of a convolution [offsets, C, D], and what follows it: BatchNorm, and ReLU if wanted."""

    def __init__(self, offsets: int, taken: float, inputs: int, outputs: int, *, relu: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(random_kernel(offsets, taken, inputs, outputs))
        self.norm, self.relu = nn.BatchNorm1d(outputs), relu

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, D] of the same voxels."""
        return self.finished(submanifold(x, self.weight, voxels))

    def finished(self, x: Tensor) -> Tensor:
        """What follows the convolution, [N, D] to [N, D]."""
        out: Tensor = self.norm(x)
        return functional.relu(out) if self.relu else out


class Step(Convolution):
    """From one level to the next, by `down` to the coarser or by `up` to the finer one."""

    def __init__(self, move: Callable[..., Tensor], taken: float, inputs: int, outputs: int) -> None:
        super().__init__(8, taken, inputs, outputs)
        self.move = move

    def forward(self, x: Tensor, *place: VoxelSet | Tensor) -> Tensor:  # type: ignore[override]
        """Features [N, C] of one level to [M, D] of the other; `place`: what the function takes besides."""
        return self.finished(self.move(x, self.weight, *place))


class Stage(nn.Sequential):
    """Basic blocks of one level, of which the first may widen."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*(BasicBlock(inputs if number == 0 else outputs, outputs) for number in range(BLOCKS)))

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:  # type: ignore[override]
        """Features [N, C] to features [N, D]."""
        for block in self:
            x = block(x, voxels)
        return x


class BasicBlock(nn.Module):
    """ReLU(skip(x) + norm(conv(ReLU(norm(conv(x)))))); the skip is linear with a norm where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Convolution(27, 9, inputs, outputs)
        self.second = Convolution(27, 9, outputs, outputs, relu=False)
        narrow = nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs))
        self.skip = nn.Identity() if inputs == outputs else narrow

    def forward(self, x: Tensor, voxels: VoxelSet) -> Tensor:
        """Features [N, C] to features [N, D]."""
        return functional.relu(self.skip(x) + self.second(self.first(x, voxels), voxels))
