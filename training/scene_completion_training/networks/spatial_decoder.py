"""The decoder in space: what the features of an image say of every voxel, with its neighbours and the street around."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.point_code import PointCodeSpec

LEVELS = 8
"""Heights at which the cells of the bird's-eye view look up features."""
_LEVEL_POWER = 1.5
"""Above 1, levels lie closer together near the ground."""
_DISTANCES_M = (0.5, 2.0, 8.0)
"""Scales on which a place is compared with the surface that its pixel sees: its own, that of a car, of a house."""
_GEOMETRY = 2 * len(_DISTANCES_M) + 2
_PLACES = 2
_PRIOR_CELLS = 4
"""Cells of the bird's-eye view, along each axis, to one of the learned mean."""


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    groups = next(count for count in (8, 4, 2, 1) if channels_out % count == 0)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.GroupNorm(groups, channels_out), nn.ReLU(inplace=True)
    )


class SpatialDecoder(nn.Module):
    """Features of an image to a logit for every voxel of a grid that stands still before the camera.

    A pixel says nothing of what lies behind the surface that it sees. Here each cell of a bird's-eye view looks up, at
    a few heights, the features of its pixel. It also looks up how far it lies before or behind what the pixel sees. A
    U-Net (Ronneberger et al. 2015) over the cells then knows the shape of the car in front, its neighbours and the
    road. A learned mean of the grid stands beside it. It starts as nothing: every logit is 0.

    Args:
        camera: Canonical camera; every image has been resampled into it.
        grid: The voxels, in the frame that `DEFAULT_GRID_FROM_CAMERA` leads to.
        spec: Point code, in which the first of the features says inverse depth.
        channels: Channels of the features.
        stride: Voxels to a cell along x and y.
        reduced: Channels of the features that are looked up.
        widths: Channels of the U-Net, the finest first.

    Attributes:
        mixed: Precision that the U-Net computes in, where it is not single.
    """

    def __init__(
        self,
        camera: Camera,
        grid: VoxelGrid,
        spec: PointCodeSpec,
        *,
        channels: int = 64,
        stride: int = 2,
        reduced: int = 16,
        widths: tuple[int, ...] = (48, 64, 96, 96),
    ) -> None:
        super().__init__()
        self.mixed: torch.dtype | None = None
        self.grid = grid
        self.spec = spec
        self.stride = stride
        count_x, count_y, count_z = grid.shape
        self.cells = (-(-count_x // stride), -(-count_y // stride))
        self._prepare(camera)
        self.reduce = nn.Conv2d(channels, reduced, 1)
        looked_up = (reduced + _GEOMETRY) * LEVELS + _PLACES
        finest = widths[0]
        self.enter = nn.Sequential(nn.Conv2d(looked_up, finest, 1), nn.ReLU(inplace=True), _block(finest, finest))
        self.down = nn.ModuleList(
            nn.Sequential(_block(finer, coarser, 2), _block(coarser, coarser))
            for finer, coarser in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(_block(coarser + finer, finer) for finer, coarser in itertools.pairwise(widths))
        self.leave = nn.Conv2d(widths[0], count_z * stride * stride, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        coarse = [max(1, cells // _PRIOR_CELLS) for cells in self.cells]
        self.mean = nn.Parameter(torch.zeros(1, count_z * stride * stride, *coarse))

    @classmethod
    def of_weights(
        cls, weights: Mapping[str, Tensor], camera: Camera, grid: VoxelGrid, spec: PointCodeSpec
    ) -> SpatialDecoder:
        """An untrained decoder that weights fit."""
        leave, reduce = weights["leave.weight"], weights["reduce.weight"]
        first = sorted(name for name in weights if name.startswith("down.") and name.endswith(".0.0.weight"))
        return cls(
            camera,
            grid,
            spec,
            channels=reduce.shape[1],
            stride=round((len(leave) / grid.shape[2]) ** 0.5),
            reduced=len(reduce),
            widths=(leave.shape[1], *(len(weights[name]) for name in first)),
        )

    def _prepare(self, camera: Camera) -> None:
        """Where the cells look up features, and how deep they lie: it follows from camera and grid alone."""
        grid, (count_x, count_y) = self.grid, self.cells
        edge = grid.voxel_size * self.stride
        x = grid.origin[0] + (np.arange(count_x) + 0.5) * edge
        y = grid.origin[1] + (np.arange(count_y) + 0.5) * edge
        z = grid.origin[2] + grid.shape[2] * grid.voxel_size * ((np.arange(LEVELS) + 0.5) / LEVELS) ** _LEVEL_POWER
        places = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3)
        points = torch.from_numpy(np.asarray(DEFAULT_GRID_FROM_CAMERA.inverse().apply(places)))
        pixels: Tensor = self.spec.image_coordinates(points, camera)
        in_view = (pixels.abs() <= 1.0).all(dim=-1) & (points[:, 2] > 0.0)
        length_x, length_y = count_x * edge, count_y * edge
        plane = np.stack(np.meshgrid(2.0 * x / length_x - 1.0, 2.0 * y / length_y, indexing="ij"))
        shape = (1, 1, count_x * count_y, LEVELS)
        self.pixels: Tensor
        self.depth: Tensor
        self.in_view: Tensor
        self.plane: Tensor
        for name, values in (
            ("pixels", pixels.clamp(-2.0, 2.0).reshape(1, count_x * count_y, LEVELS, 2)),
            ("depth", points[:, 2].reshape(shape)),
            ("in_view", in_view.reshape(shape)),
            ("plane", torch.from_numpy(plane)[None]),
        ):
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, X, Y, Z] of features [B, C, h, w], the first of which is the inverse depth code of each pixel."""
        batch, (count_x, count_y) = len(features), self.cells
        seen = torch.cat([self.reduce(features), features[:, :1]], dim=1)
        sampled = functional.grid_sample(
            seen, self.pixels.expand(batch, -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
        )
        known = torch.cat([sampled[:, :-1], self._beside_surface(sampled[:, -1:])], dim=1) * self.in_view
        x = torch.cat([known, self.in_view.expand(batch, -1, -1, -1)], dim=1).transpose(2, 3)
        x = x.reshape(batch, -1, count_x, count_y)
        with torch.autocast(x.device.type, dtype=self.mixed or torch.bfloat16, enabled=self.mixed is not None):
            x = self._with_neighbours(torch.cat([x, self.plane.expand(batch, -1, -1, -1)], dim=1)).float()
        mean = functional.interpolate(self.mean, x.shape[2:], mode="bilinear", align_corners=False)
        logits = functional.pixel_shuffle(self.leave(x) + mean, self.stride)
        return logits[:, :, : self.grid.shape[0], : self.grid.shape[1]].permute(0, 2, 3, 1)

    def _with_neighbours(self, x: Tensor) -> Tensor:
        """What the U-Net makes of the cells [B, C, X, Y]."""
        levels = [self.enter(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in reversed(self.up):
            finer = levels.pop()
            x = up(torch.cat([functional.interpolate(x, finer.shape[2:], mode="nearest"), finer], dim=1))
        return x

    def _beside_surface(self, code: Tensor) -> Tensor:
        """Where places lie against the surfaces [B, 1, N, L] (inverse depth codes) that their pixels see."""
        surface = 1.0 / self.spec.inverse_depth(code).clamp_min(0.5 / self.spec.far)
        behind = self.depth - surface
        parts = [(behind > 0.0).to(behind.dtype)]
        for distance in _DISTANCES_M:
            parts += [torch.tanh(behind / distance), torch.exp(-((behind / distance) ** 2))]
        return torch.cat(parts, dim=1)

    def at(self, logits: Tensor, points: Tensor) -> Tensor:
        """Logits [B, X, Y, Z] at points [B, N, 3] (optical frame, metres), trilinear: [B, N].

        They hold at the centres of voxels; beyond the outer ones the border's values hold.
        """
        rotation, translation = (
            torch.tensor(part, dtype=points.dtype, device=points.device)
            for part in (DEFAULT_GRID_FROM_CAMERA.rotation, DEFAULT_GRID_FROM_CAMERA.translation)
        )
        origin, size = (
            torch.tensor(values, dtype=points.dtype, device=points.device)
            for values in (self.grid.origin, [count * self.grid.voxel_size for count in self.grid.shape])
        )
        place = 2.0 * (points @ rotation.T + translation - origin) / size - 1.0
        sampled = functional.grid_sample(
            logits[:, None], place.flip(-1)[:, None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return sampled[:, 0, 0, 0]
