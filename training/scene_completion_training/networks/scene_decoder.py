"""The decoder of cells: from predictions for pixels to the voxels of a volume, their classes and the ground."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.geometry.grids import measure_of
from scene_completion_ros.inference import cells
from scene_completion_ros.inference.cells import PRIOR_EDGE, STRIDE
from scene_completion_ros.inference.ground_pixels import SEEN
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.networks.pixel_head import PixelView

_PRIOR_CELLS = 4  # cells, along each axis of the bird's-eye view, to one of the learned mean
_PRIOR_SIGMA = 16.0  # voxels over which what is usual at a place is averaged, standard deviation
AT = 1  # of what `_relative_to_surface` gives, how well a place agrees with the surface of its pixel, 0 to 1
_LOOK_LIMIT = 2.0  # cells beyond so many half widths of the image look at its border from there


class Lookups(NamedTuple):
    """Where places of a volume look at an image."""

    pixels: Tensor  # normalised coordinates [B, N, 2], from -1 to 1 at the edges of the image
    depth: Tensor  # z-depth of the places [B, N], metres
    in_view: Tensor  # 1 where a place lies in the image [B, N]


Look: TypeAlias = Callable[[Tensor], Lookups]  # of places [B or 1, N, 3] in the volume


def look_up(places: Tensor, camera: Camera, spec: PointCodeSpec, volume_from_camera: Tensor, side: Tensor) -> Lookups:
    """Where places [B or 1, N, 3] of a volume look at the image, for each pose [B, 4, 4] of the camera in it.

    `side`: 1, or -1 for scenes [B] whose image and volume are mirrored from left to right.
    """
    one = torch.ones_like(side)
    places = places * torch.stack([one, side, one], dim=-1)[:, None, :]
    # The inverse of a rigid transform, for rows.
    points = (places - volume_from_camera[:, None, :3, 3]) @ volume_from_camera[:, :3, :3]
    pixels = spec.image_coordinates(points, camera)
    in_view = (pixels.abs() <= 1.0).all(dim=-1) & (points[..., 2] > 0.0)
    pixels = pixels.clamp(-_LOOK_LIMIT, _LOOK_LIMIT) * torch.stack([side, one], dim=-1)[:, None, :]
    return Lookups(pixels, points[..., 2], in_view.to(pixels))


def centres_of(grid: VoxelGrid, stride: int) -> Tensor:
    """Centres [z x y, 3] of the cells of a grid, `stride` voxels to a cell along each axis."""
    axes = [
        origin + grid.voxel_size * stride * (torch.arange(-(-count // stride)) + 0.5)
        for origin, count in zip(grid.origin, grid.shape, strict=True)
    ]
    z, x, y = torch.meshgrid(axes[2], axes[0], axes[1], indexing="ij")
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3)


class CompletedCells(NamedTuple):
    """Some cells of the predicted scene."""

    occupied: Tensor  # logits of their voxels [B, N, S³], in the order (x, y, z)
    classes: Tensor  # logits of the classes behind "empty", of cells of `STRIDE` voxels along each axis [B, K, N]
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
        prior: float = 0.0,  # share of what is usual at a place in the probabilities, see `prior_rows`
        sees_ground: bool = True,  # it is given what pixels show of the ground, see `CellVolume.on_ground`
    ) -> None:
        super().__init__()
        self.mixed: torch.dtype | None = None  # precision that the network computes in, where it is not single
        self.register_load_state_dict_pre_hook(SceneDecoder._given_seen_ground)  # type: ignore[no-untyped-call]
        self.grid, self.spec, self.classes = grid, spec, classes
        self.measure = measure_of(grid)
        self.cells = tuple(-(-count // STRIDE) for count in grid.shape)
        count_x, count_y, heights = self.cells
        self.reduce = nn.Conv2d(classes + 1, reduced, 1)
        local = reduced + cells.GEOMETRY
        finest = widths[0]
        self.sees_ground, self.of_column = sees_ground, 3 + (SEEN if sees_ground else 1)
        self.enter = nn.Sequential(
            nn.Conv2d((local + 1) * heights + self.of_column, finest, 1),
            nn.ReLU(inplace=True),
            _block(finest, finest),
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
        self.trust = nn.Conv2d(hidden, 1, 1)  # of a cell in the class of its pixel
        self.ground = nn.Conv2d(finest, 2 if sees_ground else 3, 1)
        coarse = (max(1, count_x // _PRIOR_CELLS), max(1, count_y // _PRIOR_CELLS))
        self.mean = nn.Parameter(torch.zeros(1, heights * STRIDE**3, *coarse))
        self.level = ground
        # What labels of the training held, in columns of `PRIOR_EDGE` voxels: occupied voxels, and known ones.
        shape = *(-(-count // PRIOR_EDGE) for count in grid.shape[:2]), grid.shape[2]
        self.held: Tensor = nn.Buffer(torch.zeros(2, *shape))
        self.prior: Tensor = nn.Buffer(torch.tensor(prior))
        for layer, value in ((self.occupied, -2.0), (self.ground, 0.0), (self.trust, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]
        self.occupied.bias.data[-1] = 1.0  # type: ignore[union-attr]  # what is surely seen is there
        x, y = (2.0 * (np.arange(count) + 0.5) / count - 1.0 for count in (count_x, count_y))
        plane = torch.from_numpy(np.stack(np.meshgrid(x, y, indexing="ij"))[None])
        self.plane: Tensor = nn.Buffer(plane.float(), persistent=False)
        self.centres: Tensor = nn.Buffer(centres_of(grid, STRIDE), persistent=False)  # of all cells
        # Of the voxels in which a ground may be seen, and from the middle of a cell to its voxels.
        self.low = min(
            round((ground + cells.FARTHEST_FROM_LEVEL * self.measure - grid.origin[2]) / grid.voxel_size), grid.shape[2]
        )
        below = VoxelGrid(grid.origin, grid.voxel_size, (*grid.shape[:2], self.low), grid.frame)
        self.low_centres: Tensor = nn.Buffer(centres_of(below, 1), persistent=False)
        inside = torch.tensor([*itertools.product(range(STRIDE), repeat=3)])
        self.inside: Tensor = nn.Buffer(inside, persistent=False)

    def _given_seen_ground(self, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Decoders of former versions were given where rays meet a column: here it is the ground that pixels show."""
        enter, ground = prefix + "enter.0.weight", prefix + "ground."
        if self.sees_ground and len(state.get(ground + "bias", ())) == 3:
            more = state[enter].new_zeros(len(state[enter]), SEEN - 1, 1, 1)
            state[enter] = torch.cat([state[enter], more], dim=1)
            for name in ("weight", "bias"):  # without the share of what the column was given
                state[ground + name] = state[ground + name][:2]

    def complete(self, view: PixelView, look: Look, numbers: Tensor, ground: Tensor | None = None) -> CompletedCells:
        """The cells of `numbers` [B, N] in the order (z, x, y).

        `look`: where places look at the image; `ground`: what pixels show of it, `seen_ground` [B, `SEEN`, x, y], for
        decoders that are given it.
        """
        inverse = self.spec.inverse_depth(view.code).clamp_min(0.5 / self.spec.far)
        seen = torch.cat([view.classes.softmax(dim=1), -inverse.log(), view.deviation], dim=1)
        where = look(self.centres[None])
        looked_up = sampled(seen, where.pixels, "bilinear")  # [B, C, M]
        # Reduced in the cells, which is the same as in the pixels: where pixels do not learn, nothing has to go back.
        reduced = self.reduce(looked_up[:, :-2, :, None])[..., 0].float()
        relative = _relative_to_surface(where.depth[:, None], looked_up[:, -2:-1], looked_up[:, -1:], self.measure)
        in_view = where.in_view[:, None]
        local = torch.cat([reduced, relative], dim=1) * in_view
        below = self._lowest_seen(seen[:, -2:], look) if ground is None else ground
        centres, mean = self.centres.expand(len(seen), -1, -1), self.mean_of_cells().expand(len(seen), -1, -1)
        with torch.autocast(local.device.type, dtype=self.mixed or torch.bfloat16, enabled=self.mixed is not None):
            around, of_columns = self._around(local, in_view, view.known_mounting, below)
            parts = [around, looked_up[:, :-2], relative, in_view, mean, centres.transpose(1, 2)]
            parts = [part.gather(2, numbers[:, None].expand(-1, part.shape[1], -1)) for part in parts]
            around, of_pixel, relative, in_view, mean, centres = parts
            # Reduced once more: to go back to a few cells is faster than to all, of which the columns are made.
            local = (torch.cat([self.reduce(of_pixel[..., None])[..., 0], relative], dim=1) * in_view).to(around.dtype)
            mixed = self.mix(torch.cat([around, local], dim=1)[..., None])  # [B, hidden, N, 1]
            logits, named, trust = (layer(mixed)[..., 0].float() for layer in (self.occupied, self.named, self.trust))
        if self.sees_ground:  # former decoders say of everything what it is
            named = named * (1.0 - relative[:, AT : AT + 1].float() * in_view)  # a surface is what its pixel says
        named = named + trust * in_view * of_pixel[:, : self.classes].clamp_min(cells.LEAST_CLASS).log()
        height, deviation = self.ground_of(of_columns.float(), below).unbind(dim=1)
        offsets = self.grid.voxel_size * (self.inside - (STRIDE - 1) / 2)
        places = centres.transpose(1, 2)[:, :, None] + offsets  # [B, N, S³, 3]
        surfaces = self._surfaces(seen[:, -2:], look(places.flatten(1, 2)))
        at, behind = (part.reshape(places.shape[:3]) for part in surfaces)
        hidden, before, there = (
            part.transpose(1, 2).sigmoid()
            for part in (logits[:, : STRIDE**3] + mean, logits[:, STRIDE**3 : -1], logits[:, -1:])
        )
        # A voxel is what its pixel sees, or lies behind that, or before it.
        occupied = before + at * (there - before) + behind * (hidden - before)
        return CompletedCells(self._with_ground(occupied, places, height, deviation), named, height, deviation)

    def _around(self, local: Tensor, in_view: Tensor, known: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """What is around each cell [B, C, M], and what columns predict of the ground [B, 2 or 3, x, y].

        Args:
            local: What cells look up [B, L, M], 0 out of view.
            in_view: 1 for cells in view [B, 1, M].
            known: 1 where the mounting of the camera is known [B, 1, 1, 1].
            below: What pixels show of the ground [B, `SEEN`, x, y], or where their rays meet the columns [B, 1, x, y],
                metres above the level of the ground.
        """
        batch, (count_x, count_y, heights) = len(local), self.cells
        kind = self.mixed or local.dtype
        columns = [part.to(kind).reshape(batch, -1, count_x, count_y) for part in (local, in_view)]
        plane = self.plane.to(kind).expand(batch, -1, -1, -1)
        stated = known.to(kind).expand(-1, -1, count_x, count_y)
        x = self.with_neighbours(self.enter(torch.cat([*columns, plane, stated, below.to(kind)], dim=1)))
        return self.context(x).reshape(batch, -1, heights * count_x * count_y), self.ground(x)

    def mean_of_cells(self) -> Tensor:
        """The learned mean of hidden voxels, as logits of those in each cell [1, S³, z x y]."""
        mean = functional.interpolate(self.mean, self.cells[:2], mode="bilinear", align_corners=False)
        return mean.reshape(1, STRIDE**3, -1)

    def hold(self, occupied: Tensor, known: Tensor) -> None:
        """Adds voxels of the training [B, X, Y, Z], 1 and 0, to what `prior_rows` follow from."""
        for total, voxels in zip(self.held, (occupied * known, known), strict=True):
            beyond = [part for count in voxels.shape[:0:-1] for part in (0, -count % PRIOR_EDGE)]
            beyond[:2] = 0, 0
            columns = functional.pad(voxels.float(), beyond).unfold(1, PRIOR_EDGE, PRIOR_EDGE)
            total += columns.unfold(2, PRIOR_EDGE, PRIOR_EDGE).sum(dim=(0, 4, 5))

    def prior_rows(self) -> Tensor:
        """The prior of columns [N, Z + 1], see `PredictedCells`: how often their voxels were occupied in the training.

        Trained on few streets, the network is too sure on others. A mean of its probabilities and what is usual at a
        place, at the same height above the ground, is better there than either (a linear opinion pool; Stone 1961).
        Obstacles are no matter of habit: what stands on the ground is the network's alone.
        """
        sigma = (*[_PRIOR_SIGMA / PRIOR_EDGE] * 2, 0.5)
        occupied, known = (gaussian_filter(part, sigma) for part in self.held.cpu().double().numpy())
        share = float(self.prior) * (known > 1e-6)
        of_column = share.max(axis=2, keepdims=True)  # what lies below the ground may never be known
        rows = np.concatenate([share * occupied / np.maximum(known, 1e-6), of_column], axis=2)
        return torch.from_numpy(rows.reshape(-1, rows.shape[2])).to(self.held)

    def _with_prior(self, occupied: Tensor, x: Tensor, y: Tensor, above: Tensor) -> Tensor:
        """Probabilities [B, N, S³] with the prior of voxels in columns x and y, so far above the ground."""
        rows, last = self.prior_rows(), self.grid.shape[2] - 1
        x, y = (
            (part // PRIOR_EDGE).clamp_max(most - 1) for part, most in zip((x, y), self.held.shape[1:3], strict=True)
        )
        column = (x * self.held.shape[2] + y) * rows.shape[1]
        up = ((above + self.level - self.grid.origin[2]) / self.grid.voxel_size - 0.5).clamp(0.0, last)
        lower = up.long().clamp_max(last - 1)
        near, far, share = (rows.flatten()[column + height] for height in (lower, lower + 1, last + 1))
        mixed = near + (up - lower) * (far - near) + (1.0 - share) * occupied
        return torch.where(above > cells.STANDS_M * self.measure, occupied, mixed)

    def ground_of(self, ground: Tensor, below: Tensor) -> Tensor:
        """Height and deviation of the ground [B, 2, x, y], metres, of what columns predict of it; see `_around`."""
        share = 1.0 if self.sees_ground else ground[:, 2:].sigmoid()
        height = self.level + ground[:, :1] + share * below[:, :1]
        return torch.cat([height, 0.02 + functional.softplus(ground[:, 1:2] - 2.0)], dim=1)

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

    def _surfaces(self, seen: Tensor, where: Lookups) -> tuple[Tensor, Tensor]:
        """Probabilities [B, N] that voxels are what their pixels see (log depth, σ [B, 2, h, w]), or lie behind it."""
        found, sigma = sampled(seen, where.pixels, "nearest").unbind(dim=1)
        size = self.grid.voxel_size
        edges = ((where.depth + off).clamp_min(0.1 * self.measure).log() - found for off in (-size, size))
        near, far = (0.5 * (1.0 + torch.erf(edge / (sigma * math.sqrt(2.0)))) for edge in edges)
        return where.in_view * (far - near), 1.0 - where.in_view * (1.0 - near)

    def _lowest_seen(self, seen: Tensor, look: Look) -> Tensor:
        """Where the rays of pixels meet a column [B, 1, x, y], metres above the level of the ground.

        What is not behind a surface is before it: over a column of road, the share that is behind ends at the road.
        """
        farthest = cells.FARTHEST_FROM_LEVEL * self.measure
        at, behind = self._surfaces(seen, look(self.low_centres[None]))
        depth = self.grid.voxel_size * (behind + 0.5 * at).reshape(len(seen), self.low, *self.grid.shape[:2]).sum(dim=1)
        lowest = self.grid.origin[2] + functional.avg_pool2d(depth[:, None], STRIDE, ceil_mode=True) - self.level
        return lowest.clamp(-farthest, farthest)

    def _with_ground(self, occupied: Tensor, places: Tensor, height: Tensor, deviation: Tensor) -> Tensor:
        """Logits [B, N, S³] with the ground in it, Φ((top - h) / σ) - Φ((bottom - h) / σ), and others above.

        `occupied`: probabilities without it; `places`: the middles of these voxels [B, N, S³, 3].
        """
        surface = torch.stack([height, deviation], dim=1)
        surface = functional.interpolate(surface, scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        x, y = (((places[..., axis] - self.grid.origin[axis]) / self.grid.voxel_size).long() for axis in (0, 1))
        column = (x * surface.shape[3] + y).flatten(1)[:, None].expand(-1, 2, -1)
        h, sigma = surface.flatten(2).gather(2, column).reshape(len(places), 2, *occupied.shape[1:]).unbind(dim=1)
        edges = (places[..., 2] + off * self.grid.voxel_size for off in (-0.5, 0.5))
        under, above = (0.5 * (1.0 + torch.erf((edge - h) / (sigma * math.sqrt(2.0)))) for edge in edges)
        inside = above - under
        occupied = inside + (1.0 - inside) * above * occupied
        if self.prior > 0.0 and not self.training:
            occupied = self._with_prior(occupied, x, y, places[..., 2] - h)
        occupied = occupied.clamp(cells.CERTAIN, 1.0 - cells.CERTAIN)
        return torch.log(occupied) - torch.log1p(-occupied)


def sampled(maps: Tensor, pixels: Tensor, mode: str) -> Tensor:
    """Values [B, C, N] of maps [B, C, h, w] at pixels [B, N, 2], at the border beyond it."""
    return functional.grid_sample(maps, pixels[:, None], mode=mode, padding_mode="border", align_corners=False)[:, :, 0]


def _relative_to_surface(depth: Tensor, log_surface: Tensor, deviation: Tensor, measure: float) -> Tensor:
    """Where places lie against the surfaces that their pixels see: [B, G, N] of depths [B, 1, N]."""
    behind = depth - log_surface.exp()
    off = (depth.clamp_min(0.5 * measure).log() - log_surface) / deviation
    parts = [torch.sigmoid(1.7 * off), torch.exp(-0.5 * off**2), deviation * 4.0]
    for distance in (measure * length for length in cells.DISTANCES_M):
        parts += [torch.tanh(behind / distance), torch.exp(-((behind / distance) ** 2))]
    return torch.cat(parts, dim=1)
