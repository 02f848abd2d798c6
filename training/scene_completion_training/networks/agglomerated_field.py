"""Networks of CUA-O3D: one feature for several 2D foundation models with a head for each, of a field and of points."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_training.networks.density_field import DensityField, SingleViewObservation, part_of
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField, FeatureObservation
from scene_completion_training.sparse.mink_unet import LEVELS, MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet
from scene_completion_training.viewpoint import Viewpoint

HeadKind: TypeAlias = Literal["linear", "mlp"]


class FeatureHeads(nn.Module):
    """From the feature of a point to the features of several teachers, by name and dimension: a head each.

    Linear ones have no bias, as those that CUA-O3D released (section 3.1; the paper speaks of MLPs): their outputs have
    the rank of the feature. A robot asks for words without ever computing them, see `inference.feature_space`.
    """

    def __init__(self, channels: int, dims: Mapping[str, int], kind: HeadKind = "linear") -> None:
        super().__init__()
        self.dims = dict(dims)
        self.heads = nn.ModuleDict()
        for name, dim in dims.items():
            last = nn.Linear(channels, dim, bias=False)
            hidden = (nn.Linear(channels, channels), nn.LayerNorm(channels), nn.GELU())
            self.heads[name] = last if kind == "linear" else nn.Sequential(*hidden, last)

    def of(self, name: str, features: Tensor) -> Tensor:
        """A teacher's features [..., D] as they are learned, of features [..., C]."""
        return self.heads[name](features)  # type: ignore[no-any-return]

    def forward(self, features: Tensor) -> Tensor:
        """All teachers' features side by side, each of length one [..., ΣD]."""
        return torch.cat([functional.normalize(self.of(name, features), dim=-1) for name in self.dims], dim=-1)


# Slope and offset of the first units: ramps in inverse depth around the depth of the pixel's surface.
SURFACE_UNITS = tuple(itertools.product((5.0, 20.0), (-0.2, -0.07, 0.0, 0.07, 0.2)))


class AgglomeratedField(FeatureField):
    """A feature field with a head for each teacher, of so many `dims` by name, in place of the expansion.

    Its units also see the depth of the pixel's surface, channel 0 of the density's encoder. Whether a point lies on
    that surface or behind it decides what it may be.
    """

    stands_for: ClassVar[tuple[type, ...]] = (FeatureField,)
    expansion: FeatureHeads

    def __init__(self, density: DensityField, dims: Mapping[str, int], *, channels: int = 64, units: int = 64) -> None:
        heads = FeatureHeads(channels, dims)
        super().__init__(density, target_size=sum(dims.values()), channels=channels, units=units, expansion=heads)
        self.centres = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(dim), requires_grad=False) for name, dim in dims.items()}
        )  # centre that each teacher's features [D] are learned without, by name; zero unless it is set
        self.surface_layer = nn.Conv2d(1, units, 1, bias=False)
        nn.init.zeros_(self.surface_layer.weight)
        with torch.no_grad():
            for unit, (slope, offset) in enumerate(SURFACE_UNITS[:units]):
                self.surface_layer.weight[unit] = -slope
                self.position_layer.weight[unit, 2] = slope
                self.position_layer.bias[unit] = slope * offset

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> "AgglomeratedField":
        """An untrained field that weights fit, see `TrainedField`."""
        density, heads = (part_of(state, part) for part in ("density.", "expansion.heads."))
        dims = {name.removesuffix(".weight"): len(weight) for name, weight in heads.items()}
        channels, units = state["output_layer.weight"].shape
        return cls(DensityField.rebuilt(density, viewpoint, encoder), dims, channels=channels, units=units)

    def _observed(self, maps: list[Tensor], seen: SingleViewObservation) -> FeatureObservation:
        observed = super()._observed(maps, seen)
        surface = self.surface_layer(seen.depth_code[:, None].detach())
        return dataclasses.replace(observed, features_map=observed.features_map + surface)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(self.expansion.dims)

    def original(self, teacher: str, features: Tensor) -> Tensor:
        """A teacher's own features less their centre [..., D], of features [..., channels] of points."""
        return self.expansion.of(teacher, features)

    def space(self, teacher: str) -> tuple[Tensor, Tensor]:
        """A teacher's features less their centre as a linear map of the units, A u(x) + b: A [D, E] and b [D]."""
        head = self.expansion.heads[teacher]
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            weight = head.weight.double() @ self.output_layer.weight.double()
            bias = head.weight.double() @ self.output_layer.bias.double()
        return weight.float(), bias.float()

    def expand(self, features: Tensor) -> Tensor:
        """All teachers' features side by side [..., ΣD], each of length one, of features [..., channels] of points."""
        return functional.normalize(self.expansion(features), dim=-1)  # type: ignore[no-any-return]


INPUTS = 3


class AgglomeratedPoints(nn.Module):
    """From voxels to features of the trunk, and by `heads` to those of several teachers."""

    def __init__(self, dims: Mapping[str, int], heads: HeadKind = "linear") -> None:
        super().__init__()
        self.trunk = MinkUNet18A(INPUTS)
        self.heads = FeatureHeads(self.trunk.channels, dims, heads)

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> "AgglomeratedPoints":
        """An untrained one, by the configuration of a training (plain values)."""
        return cls({teacher["name"]: teacher["dim"] for teacher in configuration["teachers"]}, configuration["heads"])

    def forward(self, index: Tensor, inputs: Tensor) -> Tensor:
        """Features [N, 96] of the trunk for voxels [N, 4] of (scene, x, y, z), at least one, with inputs [N, 3]."""
        x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
        voxels, order = VoxelSet.of(index, (x, y, z))
        features: Tensor = self.trunk(inputs[order], Pyramid.of(voxels, LEVELS))
        return torch.empty_like(features).index_copy(0, order, features)
