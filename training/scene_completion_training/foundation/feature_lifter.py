"""2D features lifted to points in space: the mean of what views say that see them (OpenScene; CUA-O3D, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera

RELATIVE_TOLERANCE = 0.25  # ScanNet's in OpenScene, which takes 0.02 for Matterport3D
FAR_TOLERANCE = 0.05
NEAREST = 1e-3


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """Features of a teacher for several views."""

    values: Tensor  # [V, D, h, w], any floating type
    offsets: Tensor  # left and upper edge (x, y) of token (0, 0) in each view, pixels [V, 2]
    cell: int | Tensor  # pixels along a token's side; along x and y [2] where they differ


@dataclass(frozen=True, eq=False)
class LiftedFeatures:
    """What views say of points."""

    mean: Tensor  # mean of their features [N, D], zero where no view sees the point
    views: Tensor  # number of views that see each point [N]


class FeatureLifter:
    """Lifts features of views to points.

    A view sees a point that lies before its camera, inside its image, `border` pixels or more from its edges, and not
    farther than a tolerance (a share of the depth) from the surface that its depth shows. The tolerance of the
    published code, a quarter of the depth, is 12 m at 50 m; outdoors it is capped to two voxels, metres, and 5 % of the
    depth.
    """

    def __init__(
        self, camera: Camera, voxel_size: float, *, tolerance: float = RELATIVE_TOLERANCE, border: int = 0
    ) -> None:
        self.camera = camera
        self.cap = 2.0 * voxel_size
        self.tolerance, self.border = tolerance, border

    def pixels(self, points: Tensor, reference_from_view: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [V, N, 2] and z-depth [V, N] of points [N, 3] in views with poses [V, 4, 4]."""
        rotation, place = reference_from_view[:, :3, :3], reference_from_view[:, :3, 3]
        seen = (points[None] - place[:, None]) @ rotation  # the inverse of a rotation is its transpose
        depth = seen[..., 2]
        ahead = depth.clamp_min(NEAREST)
        camera = self.camera
        u = camera.fx * seen[..., 0] / ahead + camera.cx
        v = camera.fy * seen[..., 1] / ahead + camera.cy
        return torch.stack([u, v], dim=-1), depth

    def visible(self, pixels: Tensor, depth: Tensor, surface: Tensor | None, shown: Tensor | None = None) -> Tensor:
        """Whether views see points, bool [V, N], at pixels [V, N, 2] and z-depths [V, N], metres.

        `surface`: z-depth of what each pixel shows [V, H, W], metres; 0 where unknown: such a pixel sees no point; None
        if nothing hides anything. `shown`: pixels that show the world, bool [V, H, W]; None for all.
        """
        width, height, border = self.camera.width, self.camera.height, self.border
        column, row = pixels.round().long().unbind(dim=-1)
        inside = (column >= border) & (column < width - border) & (row >= border) & (row < height - border)
        inside &= depth > NEAREST
        at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        if surface is not None:
            there = surface.flatten(1).gather(1, at)
            tolerance = torch.minimum(self.tolerance * there, self.cap + FAR_TOLERANCE * there)
            inside &= (there > 0.0) & ((there - depth).abs() <= tolerance)
        return inside if shown is None else inside & shown.flatten(1).gather(1, at)

    def __call__(
        self,
        points: Tensor,
        maps: Mapping[str, TokenMaps],
        reference_from_view: Tensor,
        surface: Tensor | None,
        shown: Tensor | None = None,
    ) -> dict[str, LiftedFeatures]:
        """Features of each teacher at points [N, 3], metres, of V views at poses [V, 4, 4]; see `visible`."""
        pixels, depth = self.pixels(points, reference_from_view)
        seen = self.visible(pixels, depth, surface, shown)
        return {name: self._mean(pixels, seen, of_teacher) for name, of_teacher in maps.items()}

    def _mean(self, pixels: Tensor, seen: Tensor, maps: TokenMaps) -> LiftedFeatures:
        total = pixels.new_zeros(pixels.shape[1], maps.values.shape[1])
        for view in range(len(pixels)):
            chosen = seen[view].nonzero()[:, 0]
            if len(chosen):
                total.index_add_(0, chosen, self.sampled(maps, view, pixels[view, chosen]))
        views = seen.sum(dim=0)
        return LiftedFeatures(total * (1.0 / views.clamp_min(1)[:, None]), views)

    @staticmethod
    def sampled(maps: TokenMaps, view: int, pixels: Tensor) -> Tensor:
        """Tokens of a view, interpolated at pixels [M, 2]: [M, D]; beyond the outermost ones their values hold."""
        place = (pixels - maps.offsets[view] + 0.5) / maps.cell  # (0, 0) is the corner of token (0, 0)
        values = maps.values[view]
        height, width = values.shape[1:]
        grid = 2.0 * place / place.new_tensor([width, height]) - 1.0
        found = functional.grid_sample(
            values[None].float(), grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return found[0, :, 0].T
