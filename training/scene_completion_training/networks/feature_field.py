"""The feature field: a density field whose points also carry a feature (SceneDINO, section 3.1)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.networks.density_field import DensityField, SingleViewObservation, sample_map
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, make_decoder
from scene_completion_training.viewpoint import Viewpoint

Reads: TypeAlias = Literal["decoder", "map", "units"]


class ChannelNorm(nn.Module):
    """Brings the channels of each pixel to mean zero and variance one, and scales each channel (LayerNorm).

    The cosine loss is blind to the length of features. Without this a decoder's outputs grew three hundredfold within a
    thousand steps. Beside them the point code said nothing: all points of a ray had the same feature.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a map [B, C, h, w] of the same shape."""
        centred = x - x.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5) * self.weight + self.bias


class FeatureField(nn.Module):
    """A single-view density field with hidden units for features beside those for the density.

    f(x) = Wo · ReLU(Wf g(u, v) + Wγ γ(x) + b), with a feature map g of its own, decoded from the maps of the density's
    trunk. SceneDINO has one hidden layer for both. Apart, the density can stay exactly what it was validated as, and
    a robot evaluates the units of the features where voxels are occupied only.

    Features are composited along rays, and then expanded to the dimension of the targets (`expand`). Rendering 64
    numbers instead of hundreds makes the training affordable.

    Attributes:
        target_mean: Mean of the targets [D] that is taken from them, zero where they are learned as they are. The
            expanded features lie in the space of what is left.
    """

    def __init__(
        self,
        density: DensityField,
        *,
        target_size: int,  # dimension D of the targets
        channels: int = 64,  # dimension of the features that are composited
        units: int = 128,
        expansion: int | nn.Module = 128,  # hidden width of the expansion, or another network in its place
        map_channels: int = 64,
        # What the features of a point come from: a decoder of their own; the density's feature map, through units of
        # their own (S4C); or the hidden units of the density itself (SceneDINO).
        reads: Reads = "decoder",
    ) -> None:
        super().__init__()
        self.density = density
        self.spec, self.camera, self.channels, self.reads = density.spec, density.camera, channels, reads
        if reads == "decoder":
            self.decoder = make_decoder(density.encoder.trunk)
            self.normalise = ChannelNorm(self.decoder.width)
            self.project = nn.Conv2d(self.decoder.width, map_channels, 1)
        else:
            map_channels = density.encoder.channels
        if reads != "units":
            self.feature_layer = nn.Conv2d(map_channels, units, 1, bias=False)
            self.position_layer = nn.Linear(density.spec.size, units)
            # Kaiming initialisation of the joint layer, whose fan-in is map and code together.
            for weight in (self.feature_layer.weight, self.position_layer.weight):
                nn.init.normal_(weight, std=math.sqrt(2.0 / (map_channels + density.spec.size)))
            nn.init.zeros_(self.position_layer.bias)
        self.output_layer = nn.Linear(density.hidden if reads == "units" else units, channels)
        self.expansion = (
            expansion
            if isinstance(expansion, nn.Module)
            else nn.Sequential(nn.Linear(channels, expansion), nn.ReLU(inplace=True), nn.Linear(expansion, target_size))
        )
        self.target_size = target_size  # dimension of the expanded features
        self.target_mean: Tensor
        self.register_buffer("target_mean", torch.zeros(target_size))

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "FeatureField":
        """An untrained field that weights fit, see `TrainedField`."""
        output = state["output_layer.weight"]
        target, expansion = (state.get(f"expansion.{layer}.weight") for layer in (2, 0))
        density = {name.removeprefix("density."): v for name, v in state.items() if name.startswith("density.")}
        return cls(
            DensityField.rebuilt(density, viewpoint, encoder),
            target_size=len(output if target is None else target),
            channels=len(output),
            units=output.shape[1],
            expansion=nn.Identity() if expansion is None else len(expansion),
            reads="decoder" if "project.weight" in state else "map" if "position_layer.weight" in state else "units",
        )

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Loads weights of such a field, or those of a density field alone."""
        if any(name.startswith("density.") for name in weights):
            self.load_state_dict(dict(weights))
            return
        self.density.load_state_dict(dict(weights))
        if self.reads == "decoder":  # what sees edges for the depth sees them for the features too
            self.decoder.load_state_dict(self.density.encoder.decoder.state_dict())

    @property
    def positions(self) -> nn.Linear:
        """What the point code adds to the units of the features."""
        return self.density.position_layer if self.reads == "units" else self.position_layer

    @property
    def encoder(self) -> EncoderDecoder:
        """Encoder of the density."""
        return self.density.encoder

    def observe(self, image: Tensor) -> "FeatureObservation":
        """Encodes RGB images [B, 3, H, W] in 0..255."""
        maps = self.density.encoder.trunk_maps(image)
        return self._observed(maps, self.density.observe_maps(maps))

    def fixed(self, image: Tensor) -> list[Tensor]:
        """What a density that never learns makes of images [B, 3, H, W]: to be kept, and given to `observe_fixed`."""
        return self.density.encoder.trunk_maps(image)

    def observe_fixed(self, kept: list[Tensor], size: tuple[int, int]) -> "FeatureObservation":
        """What `observe` gives, of what `fixed` gave for images of a size (H, W)."""
        return self._observed(kept, self.density.observe_maps(kept))

    def _observed(self, maps: list[Tensor], seen: SingleViewObservation) -> "FeatureObservation":
        if self.reads == "units":
            units = seen.hidden_map
        elif self.reads == "map":
            units = self.feature_layer(seen.raw)
        else:
            with self.encoder.autocast(maps[0]):
                decoded = self.encoder.unflipped(self.decoder(maps))
            units = self.feature_layer(self.project(self.normalise(decoded.float())))
        return FeatureObservation(**vars(seen), feature_field=self, features_map=units)

    def expand(self, features: Tensor) -> Tensor:
        """Features [..., channels], of points or composited, in the space of the targets less their mean [..., D].

        They are not normalised.
        """
        return self.expansion(features)  # type: ignore[no-any-return]

    def codes(self, features: Tensor) -> Tensor:
        """Features [..., channels] of points as vectors [..., D]: what lies together in their space is called alike."""
        return normalised(self.expand(features))


class ClassField(FeatureField):
    """A feature field that has learned from labels: its expanded features are logits of the classes without "empty"."""

    def codes(self, features: Tensor) -> Tensor:
        """Logits [..., D] of the classes at points with these features [..., channels]."""
        return self.expand(features)


class SemanticField(ClassField):
    """The field of S4C (Hayler et al., 3DV 2024): logits of Cityscapes' 19 train ids, from pseudo-labels of images."""


@dataclass(frozen=True, eq=False)
class FeatureObservation(SingleViewObservation):
    """A `FeatureField` that has seen its image, as its density has: the image part [B, units, h, w] of its units."""

    feature_field: FeatureField
    features_map: Tensor

    def units(self, points: Tensor) -> Tensor:
        """Hidden units of the features [B, N, units] at points [B, N, 3], metres, optical frame."""
        field = self.feature_field
        coordinates: Tensor = field.spec.coordinates(points, field.camera)
        image_part = sample_map(self.features_map, coordinates).transpose(1, 2)
        return functional.relu(image_part + field.positions(field.spec.encode(coordinates)))

    def features(self, points: Tensor) -> Tensor:
        """Features [B, N, channels] at points [B, N, 3], before the expansion."""
        return self.feature_field.output_layer(self.units(points))  # type: ignore[no-any-return]


def normalised(features: Tensor) -> Tensor:
    """Features [..., D] of length one."""
    return functional.normalize(features, dim=-1, eps=1e-6)
