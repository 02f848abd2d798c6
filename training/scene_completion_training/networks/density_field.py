"""Density fields of one view and of several, what each is once it has seen its images, and the link to probabilities.

That of several views (Han et al., "Boosting Self-Supervision for Single-View Scene Completion via Knowledge
Distillation", CVPR 2024) fuses the features of all of them per point under learned confidence. The fusion is the one
that was trained in the end, without attention: view-wise confidence and features, a masked softmax over the views, and
a small network on the weighted sum.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.voxels import occupancy
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.randomness import drawn
from scene_completion_training.viewpoint import Viewpoint


class ObservedField(Protocol):
    """A density field with its images encoded. Losses, rendering and evaluation ask for nothing else."""

    def density_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3], metres, optical frame of the first encoder view."""

    def density(self, points: Tensor) -> Tensor:
        """Density σ [B, N] per metre at points [B, N, 3]."""
        return occupancy.density_of_logit(self.density_logit(points))  # type: ignore[no-any-return]

    def in_view(self, points: Tensor) -> Tensor:
        """Whether points [B, N, 3] project into an encoder view [B, N]; outside of all the field only guesses."""


class TrainedField(Protocol):
    """A field that is made again for the weights of a checkpoint."""

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> Any:
        """An untrained field of this kind that weights fit, on such an encoder; a `KeyError` for other weights."""


def part_of(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those weights whose names begin with that of a part of a network, without it."""
    return {name.removeprefix(part): value for name, value in weights.items() if name.startswith(part)}


# Slope and offset of the hidden units that start as ramps in inverse depth, placed around the depth in channel 0.
DEPTH_UNITS = tuple(itertools.product((30.0, 100.0), (-0.1, -0.04, -0.015, 0.0, 0.015, 0.04, 0.1)))


def sample_map(values: Tensor, coordinates: Tensor) -> Tensor:
    """A map [B, C, h, w] at normalised coordinates [B, N, 2 or more] (x, y): [B, C, N]; borders hold beyond."""
    grid = coordinates[:, None, :, :2]
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, :, 0]


@torch.no_grad()
def start_depth_units(features: nn.Conv2d, position: nn.Linear) -> None:
    """Makes the first units of a joint layer ramps in (inverse depth of the point − channel 0), see `DEPTH_UNITS`."""
    for unit, (slope, offset) in enumerate(DEPTH_UNITS):
        features.weight[unit] = 0.0
        features.weight[unit, 0] = -slope
        position.weight[unit] = 0.0
        position.weight[unit, 2] = slope
        position.bias[unit] = slope * offset


def _residual_block(width: int) -> nn.Sequential:
    """What pixelNeRF's residual block adds to its input [..., width]: nothing to start with."""
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    nn.init.kaiming_normal_(first.weight)
    for zero in (first.bias, second.weight, second.bias):
        nn.init.zeros_(zero)
    return nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)


class DistanceCode(PointCodeSpec):
    """Codes by the distance of points from the camera in place of their depth (`code_mode: distance` of BTS)."""

    def coordinates(self, points_camera: Any, camera: Camera) -> Any:
        """Code inputs [..., 3] of points [..., 3], see `PointCodeSpec`."""
        distance = self.depth_code(points_camera.norm(dim=-1, keepdim=True))
        return torch.cat([super().coordinates(points_camera, camera)[..., :2], distance], dim=-1)


class DensityField(nn.Module):
    """Behind-the-Scenes density field with one encoder view: σ(x) = softplus(w · ReLU(Wf f(u, v) + Wγ γ(x) + b) + c).

    Wf is applied to the whole map before sampling, which is the same because bilinear sampling is linear; the exported
    encoder carries it folded in. Channel 0 of f is trained to hold the pixel's inverse depth. The first hidden units
    start as ramps in (inverse depth of the point − channel 0). A surface is a sum of few such ramps; from a random
    start they take tens of thousands of steps to find.
    """

    def __init__(
        self,
        camera: Camera,
        spec: PointCodeSpec | None = None,
        *,
        encoder: EncoderDecoder | None = None,  # encoder-decoder; EfficientNet-Lite0 with random weights if left out
        # A loss makes channel 0 a depth. Without one it is a feature like the others, and there are no depth units.
        depth_channel: bool = True,
        hidden: int = 64,
        blocks: int = 0,  # residual blocks between the hidden layer and the density (none in BTS, 1 on RealEstate10K)
        by_distance: bool = False,  # see `DistanceCode`
    ) -> None:
        super().__init__()
        self.camera = camera
        self.spec = spec or PointCodeSpec()
        if by_distance:
            self.spec = DistanceCode(**vars(self.spec))
            self.register_buffer("by_distance", torch.ones(()))  # for those who make it again
        self.hidden, self.depth_channel = hidden, depth_channel
        self.encoder = encoder or EncoderDecoder((camera.height, camera.width), pretrained=False)
        channels = self.encoder.channels
        self.feature_layer = nn.Conv2d(channels, hidden, 1, bias=False)
        self.position_layer = nn.Linear(self.spec.size, hidden)
        self.blocks = nn.ModuleList(_residual_block(hidden) for _ in range(blocks))
        self.density_layer = nn.Linear(hidden, 1)
        inputs = channels + self.position_layer.in_features
        # Kaiming initialisation of the joint layer, whose fan-in is features and code together.
        for weight in (self.feature_layer.weight, self.position_layer.weight):
            nn.init.normal_(weight, std=math.sqrt(2.0 / inputs))
        with torch.no_grad():
            self.feature_layer.weight.mul_(0.3)  # the positional prior is fitted first; the image then refines it
        nn.init.zeros_(self.position_layer.bias)
        if depth_channel:
            start_depth_units(self.feature_layer, self.position_layer)
            self.mute_depth_units()
        # A nearly empty field to start with: a dense one hides everything behind the first samples.
        nn.init.constant_(self.density_layer.bias, -2.0)

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "DensityField":
        """An untrained field that weights fit, see `TrainedField`."""
        camera, spec = viewpoint.camera, viewpoint.volume.point_code
        hidden = len(state["position_layer.weight"])
        blocks = sum(bool(re.fullmatch(r"blocks\.\d+\.3\.bias", name)) for name in state)
        return cls(camera, spec, encoder=encoder, hidden=hidden, blocks=blocks, by_distance="by_distance" in state)

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters of the head that do not depend on features."""
        return [*self.position_layer.parameters(), *self.blocks.parameters(), *self.density_layer.parameters()]

    def prior_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3] without features."""
        coordinates: Tensor = self.spec.coordinates(points, self.camera)
        return self.head_logit(points.new_zeros(()).expand(len(points), self.hidden, points.shape[1]), coordinates)

    @torch.no_grad()
    def mute_depth_units(self) -> None:
        """Takes the depth units out of the density; they come in as the training finds use for them."""
        if self.depth_channel:
            self.density_layer.weight[:, : len(DEPTH_UNITS)] = 0.0

    def observe_maps(self, maps: list[Tensor]) -> "SingleViewObservation":
        """What `observe` gives, of the trunk's maps of the images."""
        raw = self.encoder.decode(maps)
        # Where channel 0 is a depth, gradients through the steep depth units would drown those of the loss that makes
        # it one.
        read = torch.cat([raw[:, :1].detach(), raw[:, 1:]], dim=1) if self.depth_channel else raw
        return SingleViewObservation(self, self.feature_layer(read), raw)

    def observe(self, image: Tensor) -> "SingleViewObservation":
        """Encodes RGB images [B, 3, H, W] in 0..255."""
        return self.observe_maps(self.encoder.trunk_maps(image))

    def head_logit(self, image_part: Tensor, coordinates: Tensor) -> Tensor:
        """Density before softplus [B, N], of sampled pre-activations [B, hidden, N] and code inputs [B, N, 3]."""
        position = self.position_layer(self.spec.encode(coordinates))  # [B, N, hidden]
        hidden = image_part.transpose(1, 2) + position
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.density_layer(functional.relu(hidden))[..., 0]  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class SingleViewObservation(ObservedField):
    """A `DensityField` that has seen its image (an `ObservedField`)."""

    field: DensityField
    hidden_map: Tensor  # pre-activation map [B, hidden, h, w]
    raw: Tensor  # the encoder's feature map [B, C, h, w]

    @property
    def depth_code(self) -> Tensor:
        """Inverse depth code of each pixel [B, h, w]."""
        return self.raw[:, 0]

    def density_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3], metres, optical frame."""
        coordinates: Tensor = self.field.spec.coordinates(points, self.field.camera)
        return self.field.head_logit(sample_map(self.hidden_map, coordinates), coordinates)

    def in_view(self, points: Tensor) -> Tensor:
        """Whether points [B, N, 3] project into the image [B, N]."""
        return _inside(self.field, points)


_LOGITS = np.linspace(-12.0, 8.0, 41)
_CERTAIN = 0.98  # probabilities beyond this, and below its complement, hardly depend on the slope


class OccupancyLink(nn.Module):
    """Logit of the occupancy probability from x, the density before softplus: e^s · x + o, with s and o learned.

    It keeps classification and rendering from fighting. A voxel of which the field is unsure (probability 0.3) would,
    as an opacity, block every ray after a few voxels; with o = 3 it has σ = 0.02 per metre and blocks nothing. Opacity
    stays a monotone function of the probability, which the calibration of the bundle undoes.
    """

    def __init__(self, offset: float = 3.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, logit: Tensor) -> Tensor:
        """Returns the logit of the probability, of the shape of x."""
        return logit * self.log_scale.exp() + self.offset  # type: ignore[no-any-return]


def link_calibration(link: Mapping[str, Tensor], voxel_size: float) -> occupancy.Calibration:
    """α → probability as the training learned it: both follow from the density's logit x, α by softplus, p by the link.

    It stands in until one is fitted on a drive that took no part: training voxels are drawn, not counted, a quarter of
    them occupied. Without weights of a link it is the identity. `voxel_size`: δ of the opacity, metres.
    """
    if not link:
        return occupancy.Calibration()
    alpha = occupancy.opacity(occupancy.density_of_logit(_LOGITS), voxel_size)
    probability = occupancy.probability_of_log_odds(np.exp(link["log_scale"].item()) * _LOGITS + link["offset"].item())
    return occupancy.Calibration("piecewise_linear", (0.0, *alpha.tolist(), 1.0), (0.0, *probability.tolist(), 1.0))


def link_of_calibration(calibration: occupancy.Calibration, voxel_size: float) -> dict[str, Tensor]:
    """Weights of the `OccupancyLink` nearest to a calibration (α → probability, of voxels of so many metres); or none.

    The distance is that of logits, in least squares. A bundle keeps no link, and a training that goes on from one would
    read its densities as if nothing had been learned of them.
    """
    if calibration.kind == "identity":
        return {}
    alpha = occupancy.opacity(occupancy.density_of_logit(_LOGITS), voxel_size).astype(np.float32)
    probability = calibration.apply(alpha).astype(np.float64)
    uncertain = (probability > 1.0 - _CERTAIN) & (probability < _CERTAIN)
    if uncertain.sum() < 2:
        return {}
    slope, offset = np.polyfit(_LOGITS[uncertain], occupancy.log_odds_of_probability(probability[uncertain]), 1)
    return {"log_scale": torch.tensor(math.log(max(slope, 1e-3))), "offset": torch.tensor(float(offset))}


# Probability with which a point does without a view in training, drawn for each point and view but the first.
VIEW_DROPOUT = 0.5
# Confidence of a view that does not see a point; finite, so that the softmax stays finite where none sees it.
NEVER = -1e9


class FusionHead(nn.Module):
    """Density of points from the features of any number of views.

    Each view: h = W2 · ReLU(Wf f + Wγ γ(x) + b), of which h[0] is the view's confidence and h[1:] its features. The
    views' features are averaged under softmax(confidence). Views that do not see the point are left out; where none
    does, all count the same. Then `σ = softplus(w · ReLU(W3 g + b3) + c)`. `hidden`: width of the hidden layer of each
    view (128 in MVBTS; half costs half as much); `fused`: features that are averaged (16); `depth_channel`: see
    `DensityField`; `densities`: h[1] is a density before softplus, and what is averaged in place of features
    (`SimpleMultiViewHead` of the public code); `dropout`: see `VIEW_DROPOUT`.
    """

    def __init__(
        self,
        channels: int = 64,
        code: int = 39,
        *,
        hidden: int = 64,
        fused: int = 16,
        depth_channel: bool = True,
        densities: bool = False,
        dropout: float = VIEW_DROPOUT,
    ) -> None:
        super().__init__()
        self.depth_channel, self.densities, self.dropout = depth_channel, densities, dropout
        self.feature_layer = nn.Conv2d(channels, hidden, 1, bias=False)
        self.position_layer = nn.Linear(code, hidden)
        self.view_layer = nn.Linear(hidden, 2 if densities else 1 + fused)
        layers = [self.view_layer]
        if not densities:
            self.mixing_layer = nn.Linear(fused, fused)
            self.density_layer = nn.Linear(fused, 1)
            layers += [self.mixing_layer, self.density_layer]
        # Kaiming initialisation of the joint layer, whose fan-in is features and code together.
        for layer in (self.feature_layer, self.position_layer):
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / (channels + code)))
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.position_layer.bias)
        # A nearly empty field to start with: a dense one hides everything behind the first samples.
        nn.init.constant_(layers[-1].bias, -2.0)
        if depth_channel:
            start_depth_units(self.feature_layer, self.position_layer)
            self.mute_depth_units()

    @torch.no_grad()
    def mute_depth_units(self) -> None:
        """Takes the depth units out of the density; they come in as the training finds use for them."""
        if self.depth_channel:
            self.view_layer.weight[:, : len(DEPTH_UNITS)] = 0.0

    def forward(self, features: Tensor, code: Tensor, seen: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Density before softplus [B, N] of sampled maps [B, V, N, hidden], codes [B, V, N, C] and `seen` [B, V, N]."""
        # The softmax over the views is the same whatever the bias of the confidence. Its gradient would be nothing but
        # rounding errors, which Adam turns into steps as long as any other.
        bias = torch.cat([torch.zeros_like(self.view_layer.bias[:1]), self.view_layer.bias[1:]])
        views = functional.linear(functional.relu(features + self.position_layer(code)), self.view_layer.weight, bias)
        if generator is not None:
            # Drawn on the CPU, so that a training goes the same way on any device.
            kept = drawn(torch.rand, seen.shape, generator).to(seen.device) >= self.dropout
            kept[:, 0] = True
            seen = seen & kept
        confidence = views[..., 0].masked_fill(~seen, NEVER)
        fused = (confidence.softmax(dim=1)[..., None] * views[..., 1:]).sum(dim=1)  # [B, N, fused]
        if self.densities:
            return fused[..., 0]
        return self.density_layer(functional.relu(self.mixing_layer(fused)))[..., 0]  # type: ignore[no-any-return]


class MultiViewField(nn.Module):
    """The teacher: one encoder for all views (a random EfficientNet-Lite0 if left out), and a `FusionHead`."""

    def __init__(
        self,
        camera: Camera,
        spec: PointCodeSpec | None = None,
        *,
        encoder: EncoderDecoder | None = None,
        **head: Any,  # as `FusionHead` has it
    ) -> None:
        super().__init__()
        self.camera = camera
        self.spec = spec or PointCodeSpec()
        self.encoder = encoder or EncoderDecoder((camera.height, camera.width), pretrained=False)
        self.fusion = FusionHead(self.encoder.channels, self.spec.size, **head)

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "MultiViewField":
        """An untrained field that weights fit, see `TrainedField`."""
        hidden, densities = len(state["fusion.position_layer.weight"]), "fusion.density_layer.weight" not in state
        return cls(viewpoint.camera, viewpoint.volume.point_code, encoder=encoder, hidden=hidden, densities=densities)

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters of the head that do not depend on features."""
        return [value for name, value in self.fusion.named_parameters() if not name.startswith("feature_layer.")]

    def prior_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3] of a single view without features."""
        code = self.spec.encode(self.spec.coordinates(points, self.camera))[:, None]
        features = points.new_zeros(()).expand(*code.shape[:3], self.fusion.feature_layer.out_channels)
        seen = torch.ones(code.shape[:3], dtype=torch.bool, device=points.device)
        return self.fusion(features, code, seen)  # type: ignore[no-any-return]

    def mute_depth_units(self) -> None:
        """Takes the depth units out of the density."""
        self.fusion.mute_depth_units()

    def observe(
        self, images: Tensor, encoder_from_view: Tensor, generator: torch.Generator | None = None
    ) -> "MultiViewObservation":
        """Encodes views, RGB [B, V, 3, H, W] in 0..255, at poses [B, V, 4, 4]; a generator drops views."""
        batch, count = images.shape[:2]
        raw = self.encoder(images.flatten(0, 1))
        # Channel 0 learns from the depth loss alone; through the steep depth units other gradients would drown that.
        kept = torch.cat([raw[:, :1].detach(), raw[:, 1:]], dim=1) if self.fusion.depth_channel else raw
        maps = self.fusion.feature_layer(kept)  # before sampling: the same as after it, and cheaper
        depth_codes = raw[:, 0].unflatten(0, (batch, count))
        return MultiViewObservation(self, maps, depth_codes, torch.linalg.inv(encoder_from_view), generator)


@dataclass(frozen=True, eq=False)
class MultiViewObservation(ObservedField):
    """A `MultiViewField` that has seen its views (an `ObservedField`)."""

    field: MultiViewField
    maps: Tensor  # prepared features [B·V, hidden, h, w]
    depth_codes: Tensor  # inverse depth code of each pixel [B, V, h, w]
    view_from_encoder: Tensor  # poses [B, V, 4, 4]
    generator: torch.Generator | None = None  # source of the view dropout, in training

    def density_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3], metres, first view's optical frame."""
        field = self.field
        local = self._local(points)  # [B, V, N, 3]
        coordinates = field.spec.coordinates(local, field.camera)
        sampled = sample_map(self.maps, coordinates.flatten(0, 1))  # [B·V, hidden, N]
        features = sampled.transpose(1, 2).reshape(*coordinates.shape[:3], -1)
        out: Tensor = field.fusion(features, field.spec.encode(coordinates), _inside(field, local), self.generator)
        return out

    def in_view(self, points: Tensor) -> Tensor:
        """Whether points [B, N, 3] project into any of the views [B, N]."""
        return _inside(self.field, self._local(points)).any(dim=1)

    def _local(self, points: Tensor) -> Tensor:
        rotation, translation = self.view_from_encoder[..., :3, :3], self.view_from_encoder[..., :3, 3]
        return torch.einsum("bvij,bnj->bvni", rotation, points) + translation[:, :, None]


def _inside(field: DensityField | MultiViewField, local: Tensor) -> Tensor:
    """Whether points [..., 3] of a view (optical frame) lie in front of the camera and inside the pixel edges."""
    coordinates: Tensor = field.spec.image_coordinates(local, field.camera)
    return (coordinates.abs() <= 1.0).all(dim=-1) & (local[..., 2] > 1e-3)
