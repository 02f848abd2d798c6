"""The multi-view density field (MVBTS): features of every encoder view, fused per point under learned confidence.

Han et al., "Boosting Self-Supervision for Single-View Scene Completion via Knowledge Distillation", CVPR 2024. The
fusion is the one that was trained in the end, without attention. It has view-wise confidence and features, a masked
softmax over the views, and a small network on the weighted sum.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.networks.density_field import DEPTH_UNITS, ObservedField, sample_map, start_depth_units
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.randomness import drawn
from scene_completion_training.viewpoint import Viewpoint

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
    `DensityField`.
    """

    def __init__(
        self, channels: int = 64, code: int = 39, *, hidden: int = 64, fused: int = 16, depth_channel: bool = True
    ) -> None:
        super().__init__()
        self.depth_channel = depth_channel
        self.feature_layer = nn.Conv2d(channels, hidden, 1, bias=False)
        self.position_layer = nn.Linear(code, hidden)
        self.view_layer = nn.Linear(hidden, 1 + fused)
        self.mixing_layer = nn.Linear(fused, fused)
        self.density_layer = nn.Linear(fused, 1)
        # Kaiming initialisation of the joint layer, whose fan-in is features and code together.
        for layer in (self.feature_layer, self.position_layer):
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / (channels + code)))
        for layer in (self.view_layer, self.mixing_layer, self.density_layer):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.position_layer.bias)
        # A nearly empty field to start with: a dense one hides everything behind the first samples.
        nn.init.constant_(self.density_layer.bias, -2.0)
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
        views = self.view_layer(functional.relu(features + self.position_layer(code)))
        if generator is not None:
            # Drawn on the CPU, so that a training goes the same way on any device.
            kept = drawn(torch.rand, seen.shape, generator).to(seen.device) >= VIEW_DROPOUT
            kept[:, 0] = True
            seen = seen & kept
        confidence = views[..., 0].masked_fill(~seen, NEVER)
        fused = (confidence.softmax(dim=1)[..., None] * views[..., 1:]).sum(dim=1)  # [B, N, fused]
        return self.density_layer(functional.relu(self.mixing_layer(fused)))[..., 0]  # type: ignore[no-any-return]


class MultiViewField(nn.Module):
    """The teacher: one encoder for all views (a random EfficientNet-Lite0 if left out), and a `FusionHead`."""

    def __init__(
        self,
        camera: Camera,
        spec: PointCodeSpec | None = None,
        *,
        encoder: EncoderDecoder | None = None,
        hidden: int = 64,
        depth_channel: bool = True,
    ) -> None:
        super().__init__()
        self.camera = camera
        self.spec = spec or PointCodeSpec()
        self.encoder = encoder or EncoderDecoder((camera.height, camera.width), pretrained=False)
        self.fusion = FusionHead(self.encoder.channels, self.spec.size, hidden=hidden, depth_channel=depth_channel)

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "MultiViewField":
        """An untrained field that weights fit, see `TrainedField`."""
        hidden = len(state["fusion.position_layer.weight"])
        return cls(viewpoint.camera, viewpoint.volume.point_code, encoder=encoder, hidden=hidden)

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters of the head that do not depend on features."""
        fusion = self.fusion
        layers = (fusion.position_layer, fusion.view_layer, fusion.mixing_layer, fusion.density_layer)
        return [parameter for layer in layers for parameter in layer.parameters()]

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


def _inside(field: MultiViewField, local: Tensor) -> Tensor:
    coordinates: Tensor = field.spec.image_coordinates(local, field.camera)
    return (coordinates.abs() <= 1.0).all(dim=-1) & (local[..., 2] > 1e-3)
