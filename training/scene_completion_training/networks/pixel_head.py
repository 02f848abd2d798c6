"""The head for pixels: depth with its deviation, and classes, of the maps of a `DepthAnythingTrunk`."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.grids import measure_of
from scene_completion_ros.inference.cells import Ground
from scene_completion_ros.inference.depth_correction import PlaneMaps, corrected_depth, depth_correction, plane_maps
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.networks.encoder_decoder import pixel_places
from scene_completion_training.networks.trunk import STRIDE
from scene_completion_training.viewpoint import Viewpoint

TOKEN_WIDTH = 48  # channels that the tokens of the trunk are reduced to before they are brought to the size of the map
FINE = 32  # channels at half the resolution of the image
LAID_OUT = 8, 24  # rows and columns of the tokens that the plane of the road is read from
PLANE_WIDTH = 48  # channels of these
FARTHER = 8.0  # depths that can be predicted, in farthest ones of the point code: the sky is farther
_LOG_DEVIATION = -1.0  # of the logarithm of depth, at the start
_PLANE_DEVIATIONS = math.radians(2.0), math.radians(1.0), 0.2  # of roll, pitch and log height, at the start


class PixelView(NamedTuple):
    """Predictions for the pixels of an image, half as fine as the image."""

    code: Tensor  # inverse depth code [B, 1, h, w], see `PointCodeSpec`
    deviation: Tensor  # standard deviation of the logarithm of depth [B, 1, h, w]
    classes: Tensor  # logits of the classes behind "empty", and of the sky behind them [B, K + 1, h, w]
    known_mounting: Tensor  # 1 where the mounting of the camera is known, otherwise 0 [B, 1, 1, 1]
    # The plane of the road as the whole image shows it: `RoadPlane.state`, and the deviations of that [B, 3, 2].
    plane: Tensor


class PixelHead(nn.Module):
    """From the maps of a `DepthAnythingTrunk` to a `PixelView` at half the resolution of the image.

    Most of it computes at the size of the trunk's fused map, a third of which is half the resolution. The logarithm
    of depth is that of each pixel plus one for the image, since cameras stand at many heights. Tokens of the last
    block hold what things are; classes have a branch of their own on them, wide enough for those that few pixels
    show; so has the plane of the road, which follows from vanishing lines, walls and all else that stands upright,
    and from where each of them is in the image. Tokens may be kept from depth: the size of rendered things, which
    they learn, does not hold for real ones.
    """

    def __init__(
        self,
        spec: PointCodeSpec,  # point code of the depths
        *,
        channels: int = 64,  # channels of the trunk's fused map
        tokens: int = 384,  # channels of its tokens
        classes: int = 15,  # classes behind "empty"
        width: int = 64,  # channels inside
        class_branch_channels: int = 192,  # channels of the branch that predicts classes from the tokens alone
        merging: bool = True,  # tokens go into what depth, its doubt and classes follow from
        height: float = 1.65,  # usual height of cameras above the road, metres
    ) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(PixelHead._without_plane)  # type: ignore[no-untyped-call]
        self.spec = spec
        self.tokens = nn.Sequential(nn.Conv2d(tokens, TOKEN_WIDTH, 1), nn.GELU()) if merging else None
        self.merge = nn.Sequential(
            nn.Conv2d(channels + 4 + TOKEN_WIDTH * merging, width, 3, padding=1),
            nn.ELU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ELU(inplace=True),
        )
        self.attention = nn.Conv2d(width, 1, 1)
        self.factor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        self.narrow = nn.Conv2d(width, FINE, 1)
        self.refine = nn.Sequential(nn.Conv2d(FINE + 2, FINE, 3, padding=1), nn.ELU(inplace=True))
        self.depth = nn.Conv2d(FINE, 1, 1)
        self.deviation = nn.Conv2d(FINE, 1, 1)
        self.classes = nn.Conv2d(FINE, classes + 1, 1)
        self.naming = nn.Sequential(
            nn.Conv2d(tokens, class_branch_channels, 1),
            nn.GELU(),
            nn.Conv2d(class_branch_channels, class_branch_channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(class_branch_channels, classes + 1, 1),
        )
        rows, columns = (count // 2 for count in LAID_OUT)
        self.plane = nn.Sequential(
            nn.Conv2d(tokens, PLANE_WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(PLANE_WIDTH, PLANE_WIDTH, 3, 2, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(PLANE_WIDTH * rows * columns, PLANE_WIDTH),
            nn.GELU(),
            nn.Linear(PLANE_WIDTH, 6),
        )
        usual = torch.tensor([0.0, 0.0, math.log(height)]), torch.tensor(_PLANE_DEVIATIONS)
        # What the deviation of depth is multiplied with: on roads that it never saw, a network errs more than it knows.
        self.doubt: Tensor = nn.Buffer(torch.ones(()))
        self.usual_plane: Tensor = nn.Buffer(torch.stack(usual, dim=-1))  # state and deviations [3, 2]
        start = 0.5 * math.log(spec.near * spec.far)
        begins = (self.factor[2], 0.0), (self.plane[-1], 0.0), (self.depth, start), (self.deviation, _LOG_DEVIATION)
        for layer, value in begins:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, value)  # type: ignore[arg-type]

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, _: object = None) -> "PixelHead":
        """An untrained head that weights fit, see `TrainedField`."""
        narrow, naming, merging = state["narrow.weight"], state["naming.0.weight"], "tokens.0.weight" in state
        return cls(
            viewpoint.volume.point_code,
            channels=state["merge.0.weight"].shape[1] - 4 - TOKEN_WIDTH * merging,
            tokens=naming.shape[1],
            classes=len(state["classes.weight"]) - 1,
            width=narrow.shape[1],
            class_branch_channels=len(naming),
            merging=merging,
            height=viewpoint.height_above_ground,
        )

    def _without_plane(self, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Heads of former versions knew no plane of the road, and doubt as they learned: here it is the usual one."""
        for name, value in self.state_dict().items():
            if name.split(".")[0] in ("plane", "usual_plane", "doubt"):
                state.setdefault(prefix + name, value)

    def forward(self, fused: Tensor, tokens: Tensor, ground: Tensor) -> PixelView:
        """Predictions from a trunk's fused map [B, C, h', w'] and last tokens [B, T, rows, columns].

        `ground` [B, 2, h, w] is the inverse depth code of a level ground, 0 where it is unknown, and whether it is
        known where the camera stands.
        """
        size, fine = fused.shape[2:], ground.shape[2:]
        inputs = [fused, pixel_places(fused), _resized(ground, size)]
        if self.tokens is not None:
            inputs.append(_resized(self.tokens(tokens), size))
        merged = self.merge(torch.cat(inputs, dim=1))
        attention = self.attention(merged).flatten(2).float().softmax(dim=2)
        image = self.factor((attention @ merged.flatten(2).transpose(1, 2).float())[:, 0])[..., None, None].float()
        refined = self.refine(torch.cat([_resized(self.narrow(merged), fine), ground], dim=1))
        with torch.autocast(fused.device.type, enabled=False):  # in bfloat16, what is 50 m away would be 3 % off
            log = self.depth(refined.float()) + image
        inverse = (-log).exp().clamp(1.0 / (FARTHER * self.spec.far), 1.0 / self.spec.minimum_depth)
        classes = self.classes(refined).float() + _resized(self.naming(tokens).float(), fine)
        deviation = self.doubt * self.deviation(refined).float().clamp(-4.0, 0.0).exp()
        code = self.spec.depth_code_of_inverse(inverse)
        return PixelView(code, deviation, classes, ground[:, 1:, :1, :1], self._plane(tokens))

    def _plane(self, tokens: Tensor) -> Tensor:
        first, *others = self.plane
        laid_out = functional.interpolate(first(tokens), LAID_OUT, mode="bilinear", align_corners=False)
        off, doubt = nn.Sequential(*others)(laid_out).float().reshape(-1, 3, 2).unbind(dim=2)
        state, usual = self.usual_plane.unbind(dim=1)
        return torch.stack([state + usual * off, usual * doubt.clamp(-4.0, 1.0).exp()], dim=2)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(maps, (int(size[0]), int(size[1])), mode="bilinear", align_corners=False)


def corrected(
    view: PixelView,
    viewpoint: Viewpoint,
    plane: Tensor,  # `RoadPlane.state` [B, 3]
    known: Tensor,  # whether it is known, bool [B]
    mirrored: Tensor,  # whether the image is mirrored from left to right, bool [B]
    kind: Ground,
    label: int,  # number of the ground's class in those of the view
    deviations: Tensor | None = None,  # of the state, float64 [B, 3]; None for those of what is stated
) -> PixelView:
    """The view with depths corrected by the road where a plane puts it, see `depth_correction`."""
    spec, measure = viewpoint.volume.point_code, measure_of(viewpoint.volume.grid)
    if deviations is None:
        deviations = torch.tensor(kind.doubt.stated, dtype=torch.double, device=plane.device).expand(len(plane), -1)
    maps = plane_maps(_half(viewpoint), plane, torch.diag_embed(deviations**-2), kind)
    log_depth, counts, slopes = (
        torch.where(mirrored.reshape(-1, *[1] * (one.ndim - 1)), one.flip(-1), one) for one in maps[:3]
    )
    inverse, on_ground = spec.inverse_depth(view.code)[:, 0], view.classes.detach().softmax(dim=1)[:, label]
    correction = depth_correction(
        inverse, on_ground, PlaneMaps(log_depth, counts * known[:, None, None], slopes, maps.precision), kind, measure
    )
    given = view.deviation[:, 0], correction.numbers, correction.covariance
    inverse, deviation = corrected_depth(inverse, *given, spec, measure)
    found = {"code": spec.depth_code_of_inverse(inverse)[:, None], "deviation": deviation[:, None]}
    return view._replace(**found, known_mounting=known.to(inverse)[:, None, None, None])


def _half(viewpoint: Viewpoint) -> Camera:
    return viewpoint.camera.resized(viewpoint.camera.width // STRIDE, viewpoint.camera.height // STRIDE)


def no_ground(viewpoint: Viewpoint, batch: int, device: torch.device | None = None) -> Tensor:
    """What `PixelHead` is given of the ground [B, 2, h, w]: nothing. Networks overrate what is stated."""
    half = _half(viewpoint)
    return torch.zeros(batch, 2, half.height, half.width, device=device)
