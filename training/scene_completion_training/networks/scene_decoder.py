"""Heads: depth and classes of pixels, and from these the voxels of a volume, their classes and the ground."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.geometry.grids import measure_of
from scene_completion_ros.inference.cells import (
    CERTAIN,
    DISTANCES_M,
    FARTHEST_FROM_LEVEL,
    GEOMETRY,
    LEAST_CLASS,
    STRIDE,
    Ground,
    Lookups,
    Measured,
    scaled_depth,
)
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.networks.encoder_decoder import MetricDecoder, pixel_places

TOKEN_WIDTH = 48  # channels that the tokens of the trunk are reduced to before they are brought to the size of the map
SHIFT = 0.1  # unit of the shift of an image's inverse depths, in the nearest one
MOST_ASIDE = 0.5  # largest logarithm of the factor on the depth of one pixel
_LOG_DEVIATION = -2.3  # of the logarithm of depth, at the start: about a tenth


class PixelView(NamedTuple):
    """Predictions for the pixels of an image, half as fine as the image."""

    code: Tensor  # inverse depth code [B, 1, h, w], see `PointCodeSpec`
    deviation: Tensor  # standard deviation of the logarithm of depth [B, 1, h, w]
    classes: Tensor  # logits of the classes behind "empty", and of the sky behind them [B, K + 1, h, w]
    known_mounting: Tensor  # 1 where the mounting of the camera is known, otherwise 0 [B, 1, 1, 1]


class PixelHead(nn.Module):
    """From the maps of a `DepthAnythingTrunk` to a `PixelView` at half the resolution of the image.

    Depth is that of a `MetricDecoder`, which begins as that of the encoder, times a factor for each image and a smaller
    one for each pixel: encoders are trained for one height above the ground. In rooms inverse depths are shifted as
    well: an untrained trunk predicts them up to scale and shift. Where the mounting is known, the depth of a level
    ground is an input of each pixel; tokens of the last block hold what things are. Where they have a branch of their
    own, it is wide enough for classes that few pixels show. They may be kept from depth: the size of rendered things,
    which they learn, does not hold for real ones.
    """

    def __init__(
        self,
        size: tuple[int, int],  # height and width of the maps
        spec: PointCodeSpec,  # point code of the depths
        *,
        channels: int = 64,  # channels of the trunk's fused map
        tokens: int = 384,  # channels of its tokens
        classes: int = 15,  # classes behind "empty"
        width: int = 64,  # channels inside
        shifted: bool = False,  # inverse depths of an image get a shift next to their factor
        class_branch_channels: int = 0,  # channels of a branch that predicts classes from the tokens alone; 0: none
        merging: bool = True,  # tokens go into what depth, its doubt and classes follow from
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
        self.naming: nn.Sequential | None = None  # its name in weights
        if class_branch_channels:
            self.naming = nn.Sequential(
                nn.Conv2d(tokens, class_branch_channels, 1),
                nn.GELU(),
                nn.Conv2d(class_branch_channels, class_branch_channels, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(class_branch_channels, classes + 1, 1),
            )
            nn.init.zeros_(self.naming[-1].weight)  # type: ignore[arg-type]  # weights without it mean the same
            nn.init.zeros_(self.naming[-1].bias)  # type: ignore[arg-type]
        for layer, value in ((self.factor[2], 0.0), (self.aside, 0.0), (self.deviation, _LOG_DEVIATION)):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]

    @torch.no_grad()
    def take(self, decoder: MetricDecoder, project: nn.Conv2d, prior: Tensor) -> None:
        """Takes the metric depth of an encoder: their decoder, the convolution behind it, and the mean depth."""
        self.metric.load_state_dict(decoder.state_dict())
        self.code.weight.copy_(project.weight[:1])
        self.code.bias.copy_(project.bias[:1])  # type: ignore[union-attr, index]
        self.prior.copy_(prior)

    def forward(self, fused: Tensor, relative: Tensor, tokens: Tensor, ground: Tensor) -> PixelView:
        """Predictions from a trunk's fused map [B, C, h, w], relative inverse depth [B, 1, h, w] and last tokens.

        Tokens are [B, T, rows, columns]; `ground` [B, 2, h, w] is the inverse depth code of a level ground, 0 where it
        is unknown, and whether it is known where the camera stands.
        """
        size = (fused.shape[2], fused.shape[3])
        metric = self.metric([fused, relative])
        with torch.autocast(fused.device.type, enabled=False):  # in bfloat16, what is 50 m away would be 3 % off
            code = self.code(torch.cat([metric.float(), self.prior.expand(len(fused), -1, -1, -1)], dim=1))
        inputs = [metric, code, pixel_places(relative)[:, 1:], ground]
        if self.tokens is not None:
            inputs.append(functional.interpolate(self.tokens(tokens), size, mode="bilinear", align_corners=False))
        merged = self.merge(torch.cat(inputs, dim=1))
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


def scaled(
    view: PixelView, spec: PointCodeSpec, ground: Tensor, kind: Ground, label: int, measured: Measured | None = None
) -> PixelView:
    """The view with all depths scaled by what is known of metres, see `scaled_depth`.

    `ground`: as `PixelHead.forward` has it; `label`: number of its class in those of the view; `measured`: what else is
    known.
    """
    on_ground = view.classes.detach().softmax(dim=1)[:, label]
    inverse, deviation = scaled_depth(
        spec.inverse_depth(view.code)[:, 0], view.deviation[:, 0], on_ground, ground, spec, kind, measured
    )
    return view._replace(code=spec.depth_code_of_inverse(inverse)[:, None], deviation=deviation[:, None])


# The decoder of cells: from predictions for pixels to every voxel, to the ground, and to classes of places.


_PRIOR_CELLS = 4  # cells, along each axis of the bird's-eye view, to one of the learned mean
# Probability from which a voxel lies behind a surface; voxels of a place that count as much as those of its height.
_SURELY_HIDDEN, _FEW = 0.9, 200.0


class CompletedScene(NamedTuple):
    """The predicted scene."""

    occupied: Tensor  # logits of the voxels [B, X, Y, Z]
    classes: Tensor  # logits of the classes behind "empty", of cells of `STRIDE` voxels along each axis [B, K, z, x, y]
    height: Tensor  # height of the ground in the grid, of cells of the bird's-eye view [B, x, y], metres
    deviation: Tensor  # its standard deviation [B, x, y], metres


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    groups = next(count for count in (8, 4, 2, 1) if channels_out % count == 0)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.GroupNorm(groups, channels_out), nn.ReLU(inplace=True)
    )


class SceneDecoder(nn.Module):
    """From predictions for pixels to the voxels of a volume.

    A pixel shows nothing of what lies behind its surface. Each cell of the volume looks up the class of its pixel, and
    how far the cell lies before or behind the surface there, with the deviation of its depth. A U-Net (Ronneberger et
    al. 2015) over the columns sees the shape of the car in front, its neighbours and the road; a small head joins its
    output for a height with what the cell itself looked up. Then each voxel is the surface of its pixel, or lies before
    or behind it, with probabilities that follow from depth and its deviation; for the latter two the head predicts the
    occupancy. The ground is a surface of its own: a cell of 0.2 m cannot hold five centimetres. No features of the
    image are used: streets with known voxels are few, and each might be recognised by its appearance.
    """

    def __init__(
        self,
        grid: VoxelGrid,  # the voxels
        spec: PointCodeSpec,  # point code of the depths
        *,
        classes: int = 15,  # classes behind "empty"
        reduced: int = 16,  # channels that a cell looks up besides depth and deviation
        widths: tuple[int, ...] = (64, 128, 192, 256),  # channels of the U-Net, the finest first
        context: int = 16,  # channels of the U-Net for each height
        hidden: int = 64,
        ground: float = -1.65,  # height at which the ground starts, metres in the grid
        use_pixel_classes: bool = False,  # a cell takes the class of its pixel, weighed by a learned trust
    ) -> None:
        super().__init__()
        self.mixed: torch.dtype | None = None  # precision that the network computes in, where it is not single
        self.grid, self.spec, self.classes = grid, spec, classes
        self.measure = measure_of(grid)
        self.cells = tuple(-(-count // STRIDE) for count in grid.shape)
        count_x, count_y, heights = self.cells
        self.reduce = nn.Conv2d(classes + 1, reduced, 1)
        local = reduced + GEOMETRY
        finest = widths[0]
        self.enter = nn.Sequential(
            nn.Conv2d((local + 1) * heights + 4, finest, 1), nn.ReLU(inplace=True), _block(finest, finest)
        )
        self.down = nn.ModuleList(
            nn.Sequential(_block(finer, coarser, 2), _block(coarser, coarser))
            for finer, coarser in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(_block(coarser + finer, finer) for finer, coarser in itertools.pairwise(widths))
        self.context = nn.Conv2d(finest, context * heights, 1)
        self.mix = nn.Sequential(
            nn.Conv2d(context + local, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
        )
        self.occupied = nn.Conv2d(hidden, 2 * STRIDE**3 + 1, 1)
        self.named = nn.Conv2d(hidden, classes, 1)
        self.trust: nn.Conv2d | None = None
        if use_pixel_classes:
            self.trust = nn.Conv2d(hidden, 1, 1)
            nn.init.zeros_(self.trust.weight)
            nn.init.zeros_(self.trust.bias)  # type: ignore[arg-type]
        self.ground = nn.Conv2d(finest, 3, 1)
        coarse = (max(1, count_x // _PRIOR_CELLS), max(1, count_y // _PRIOR_CELLS))
        self.mean = nn.Parameter(torch.zeros(1, heights * STRIDE**3, *coarse))
        self.level = ground
        for layer, value in ((self.occupied, -2.0), (self.ground, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]
        self.occupied.bias.data[-1] = 1.0  # type: ignore[union-attr]  # what is surely seen is there
        x, y = (2.0 * (np.arange(count) + 0.5) / count - 1.0 for count in (count_x, count_y))
        plane = np.stack(np.meshgrid(x, y, indexing="ij"))[None]
        self.plane: Tensor
        self.register_buffer("plane", torch.from_numpy(plane).float(), persistent=False)

    def forward(self, view: PixelView, where: Lookups, voxels: Lookups) -> CompletedScene:
        """The predicted scene. `where`: places of its cells in the image; `voxels`: those of its voxels."""
        seen = torch.cat([view.classes.softmax(dim=1), self._log_surface(view), view.deviation], dim=1)
        sampled = functional.grid_sample(
            seen, where.pixels, mode="bilinear", padding_mode="border", align_corners=False
        )  # [B, C, z, x y]
        # Reduced in the cells, which is the same as in the pixels: where pixels do not learn, nothing has to go back.
        reduced = self.reduce(sampled[:, :-2]).float()
        relative = _relative_to_surface(where.depth, sampled[:, -2:-1], sampled[:, -1:], self.measure)
        surfaces = self._surfaces(seen[:, -2:], voxels)
        local = torch.cat([reduced, relative], dim=1) * where.in_view
        cells, named, trust, ground = self.complete(
            local, where.in_view, view.known_mounting, self._lowest_seen(surfaces)
        )
        if trust is not None:
            named = named + trust * where.in_view * sampled[:, : self.classes].clamp_min(LEAST_CLASS).log()
        hidden, before, seen_there = cells[:, : STRIDE**3], cells[:, STRIDE**3 : -1], cells[:, -1:]
        behind, there = self._voxels(hidden), self._voxels(seen_there.expand_as(before))
        occupied = self._where_surfaces_are(behind, self._voxels(before), there, surfaces)
        height, deviation = ground.unbind(dim=1)
        kinds = named.reshape(len(named), self.classes, self.cells[2], *self.cells[:2])
        return CompletedScene(self._with_ground(occupied, height, deviation), kinds, height, deviation)

    def complete(
        self, local: Tensor, in_view: Tensor, known: Tensor, lowest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """What the network predicts of cells and columns.

        Args:
            local: What cells look up [B, L, z, x y], 0 out of view.
            in_view: 1 for cells in view [B, 1, z, x y].
            known: 1 where the mounting of the camera is known [B, 1, 1, 1].
            lowest: Where the rays of pixels meet the columns [B, 1, x, y], metres above the level of the ground.

        Returns:
            Logits of voxels, behind surfaces, before and at them [B, 2 S³ + 1, z, x y]; of classes [B, K, z, x y]; how
            much the class of a pixel adds to them [B, 1, z, x y], None where it adds nothing; and height and deviation
            of the ground [B, 2, x, y], metres.
        """
        batch, (count_x, count_y, heights) = len(local), self.cells
        kind = self.mixed or local.dtype
        with torch.autocast(local.device.type, dtype=self.mixed or torch.bfloat16, enabled=self.mixed is not None):
            local = local.to(kind)
            columns = [part.to(kind).reshape(batch, -1, count_x, count_y) for part in (local, in_view)]
            plane = self.plane.to(kind).expand(batch, -1, -1, -1)
            stated = known.to(kind).expand(-1, -1, count_x, count_y)
            x = self.with_neighbours(self.enter(torch.cat([*columns, plane, stated, lowest.to(kind)], dim=1)))
            context = self.context(x).reshape(batch, -1, heights, count_x * count_y)
            mixed = self.mix(torch.cat([context, local], dim=1))  # [B, hidden, z, x y]
            cells, named, ground = self.occupied(mixed).float(), self.named(mixed).float(), self.ground(x).float()
            trust = None if self.trust is None else self.trust(mixed).float()
        mean = self.mean_of_cells().expand(batch, -1, -1, -1)
        cells = cells + torch.cat([mean, torch.zeros_like(cells[:, STRIDE**3 :])], dim=1)
        return cells, named, trust, self.ground_of(ground, lowest)

    def mean_of_cells(self) -> Tensor:
        """The learned mean of hidden voxels, as logits of those in each cell [1, S³, z, x y]."""
        size = self.cells[:2]
        mean = functional.interpolate(self.mean, size, mode="bilinear", align_corners=False)
        return mean.reshape(1, STRIDE**3, self.cells[2], size[0] * size[1])

    def ground_of(self, ground: Tensor, lowest: Tensor) -> Tensor:
        """Height and deviation of the ground [B, 2, x, y], metres, of what columns predict of it [B, 3, x, y]."""
        height = self.level + ground[:, :1] + ground[:, 2:].sigmoid() * lowest
        return torch.cat([height, 0.02 + functional.softplus(ground[:, 1:2] - 2.0)], dim=1)

    def _log_surface(self, view: PixelView) -> Tensor:
        inverse: Tensor = self.spec.inverse_depth(view.code)
        return -inverse.clamp_min(0.5 / self.spec.far).log()

    @torch.no_grad()
    def hidden_from(self, view: PixelView, voxels: Lookups) -> Tensor:
        """Voxels [B, X, Y, Z] that surely lie behind the surface of their pixel, or outside of the image."""
        at, behind = self._surfaces(torch.cat([self._log_surface(view), view.deviation], dim=1), voxels)
        return (behind > _SURELY_HIDDEN) & (at < 1.0 - _SURELY_HIDDEN)

    @torch.no_grad()
    def match_mean(self, true: Tensor, predicted: Tensor, count: Tensor) -> None:
        """Shifts the learned mean so that hidden places hold, on average, what they hold in truth.

        A step of an optimiser moves a weight by its learning rate at most: it would take thousands until the mean
        of places in the air is as low as it should be. `true`, `predicted`: sums over samples of true occupancies of
        hidden voxels [X, Y, Z] and of this decoder's probabilities; `count`: how many samples knew each.
        """
        pooled = [self._pooled(values) for values in (true, predicted, count)]
        known = pooled.pop()
        logits = []
        for total in pooled:
            usual = total.sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
            logits.append(torch.logit((total + _FEW * usual) / (known + _FEW), 1e-3))
        shift = (logits[0] - logits[1])[None].expand(STRIDE**2, -1, -1, -1, -1)
        self.mean.add_(shift.reshape(self.mean.shape))

    def _pooled(self, values: Tensor) -> Tensor:
        """Sums [S, z, x, y] of values of voxels [X, Y, Z] over the blocks of the mean."""
        (count_x, count_y), heights = self.mean.shape[2:], self.cells[2]
        beyond = [n for c, v in zip(self.cells, values.shape, strict=True) for n in (c * STRIDE - v, 0)]
        size_x, size_y = (self.cells[axis] // count * STRIDE for axis, count in enumerate((count_x, count_y)))
        part = functional.pad(values, beyond[::-1])[: count_x * size_x, : count_y * size_y]
        return part.reshape(count_x, size_x, count_y, size_y, heights, STRIDE).sum(dim=(1, 3)).permute(3, 2, 0, 1)

    def with_neighbours(self, entered: Tensor, upwards: nn.ModuleList | None = None) -> Tensor:
        """What the U-Net makes of the columns [B, C, X, Y], C its finest width.

        `upwards`: blocks that take a map and the finer one; None for those of training.
        """
        levels = [entered]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in reversed(upwards or self.up):
            finer = levels.pop()
            if upwards is None:
                x = up(torch.cat([functional.interpolate(x, finer.shape[2:], mode="nearest"), finer], dim=1))
            else:
                x = up(x, finer)
        return x

    def _voxels(self, cells: Tensor) -> Tensor:
        """Logits of voxels [B, X, Y, Z] of those of the voxels in cells [B, S³, z, x y]."""
        batch, (count_x, count_y, heights) = len(cells), self.cells
        fine = cells.reshape(batch, STRIDE, STRIDE, STRIDE, heights, count_x, count_y)
        fine = fine.permute(0, 5, 1, 6, 2, 4, 3).reshape(batch, *(count * STRIDE for count in self.cells))
        return fine[:, : self.grid.shape[0], : self.grid.shape[1], : self.grid.shape[2]]

    def _surfaces(self, seen: Tensor, voxels: Lookups) -> tuple[Tensor, Tensor]:
        """Probabilities that a voxel [B, X, Y, Z] is what its pixel sees (log depth, σ [B, 2, h, w]), or behind it."""
        found = functional.grid_sample(seen, voxels.pixels, mode="nearest", padding_mode="border", align_corners=False)
        size = self.grid.voxel_size
        edges = ((voxels.depth + off).clamp_min(0.1 * self.measure).log() - found[:, :1] for off in (-size, size))
        near, far = (0.5 * (1.0 + torch.erf(edge / (found[:, 1:] * math.sqrt(2.0)))) for edge in edges)
        at, shown = voxels.in_view * (far - near), voxels.in_view * (1.0 - near)
        shape = (len(seen), self.grid.shape[2], self.grid.shape[0], self.grid.shape[1])
        return at.reshape(shape).permute(0, 2, 3, 1), (1.0 - shown).reshape(shape).permute(0, 2, 3, 1)

    def _lowest_seen(self, surfaces: tuple[Tensor, Tensor]) -> Tensor:
        """Where the rays of pixels meet a column [B, 1, x, y], metres above the level of the ground.

        What is not behind a surface is before it: over a column of road, the share that is behind ends at the road.
        """
        at, behind = surfaces
        farthest = FARTHEST_FROM_LEVEL * self.measure
        low = round((self.level + farthest - self.grid.origin[2]) / self.grid.voxel_size)
        depth = self.grid.voxel_size * (behind + 0.5 * at)[..., :low].sum(dim=3)
        lowest = self.grid.origin[2] + functional.avg_pool2d(depth[:, None], STRIDE, ceil_mode=True) - self.level
        return lowest.clamp(-farthest, farthest)

    def _where_surfaces_are(
        self, hidden: Tensor, before: Tensor, there: Tensor, surfaces: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Probabilities [B, X, Y, Z]: a voxel is what its pixel sees, or lies behind that, or before it."""
        at, behind = surfaces
        rest = before.sigmoid()
        return rest + at * (there.sigmoid() - rest) + behind * (hidden.sigmoid() - rest)

    def _with_ground(self, occupied: Tensor, height: Tensor, deviation: Tensor) -> Tensor:
        """Logits [B, X, Y, Z] with the ground in it, Φ((top - h) / σ) - Φ((bottom - h) / σ), and others above."""
        surface = torch.stack([height, deviation], dim=1)
        surface = functional.interpolate(surface, scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        h, sigma = (surface[:, part, : occupied.shape[1], : occupied.shape[2], None] for part in range(2))
        edges = self.grid.origin[2] + self.grid.voxel_size * torch.arange(self.grid.shape[2] + 1, device=h.device)
        below = 0.5 * (1.0 + torch.erf((edges - h) / (sigma * math.sqrt(2.0))))  # [B, X, Y, Z + 1]
        inside, above = below[..., 1:] - below[..., :-1], below[..., 1:]
        occupied = inside + (1.0 - inside) * above * occupied
        occupied = occupied.clamp(CERTAIN, 1.0 - CERTAIN)
        return torch.log(occupied) - torch.log1p(-occupied)


def _relative_to_surface(depth: Tensor, log_surface: Tensor, deviation: Tensor, measure: float) -> Tensor:
    """Where places lie against the surfaces that their pixels see: [B, G, z, N] of logarithms of depth [B, 1, z, N]."""
    behind = depth - log_surface.exp()
    off = (depth.clamp_min(0.5 * measure).log() - log_surface) / deviation
    parts = [torch.sigmoid(1.7 * off), torch.exp(-0.5 * off**2), deviation * 4.0]
    for distance in (measure * length for length in DISTANCES_M):
        parts += [torch.tanh(behind / distance), torch.exp(-((behind / distance) ** 2))]
    return torch.cat(parts, dim=1)
