"""A field whose points carry one feature for several 2D foundation models, with a head for each (CUA-O3D)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.networks.density_field import DensityField, SingleViewObservation
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField, FeatureObservation
from scene_completion_training.networks.feature_heads import FeatureHeads
from scene_completion_training.networks.target_normaliser import TargetNormaliser
from scene_completion_training.viewpoint import Viewpoint

SURFACE_UNITS = tuple(itertools.product((5.0, 20.0), (-0.2, -0.07, 0.0, 0.07, 0.2)))
"""Slope and offset of the first units: ramps in inverse depth around the depth of the pixel's surface."""


@dataclass(frozen=True, eq=False)
class TeacherSpace:
    """A teacher's features as a linear map of the units: f(x) = A u(x) + b.

    Attributes:
        weight: A [D, E].
        bias: b [D].
    """

    weight: Tensor
    bias: Tensor


class AgglomeratedField(FeatureField):
    """A feature field with a head for each teacher in place of the expansion.

    Its units also see the depth of the pixel's surface, channel 0 of the density's encoder. Whether a point lies on
    that surface or behind it decides what it may be.

    Args:
        heads: From the feature of a point to those of the teachers.
        normalisers: What each teacher's features were learned as.

    Attributes:
        centres: What each teacher's features [D] are said without, by name; zero unless it is set.
    """

    stands_for: ClassVar[tuple[type, ...]] = (FeatureField,)
    expansion: FeatureHeads

    def __init__(
        self,
        density: DensityField,
        heads: FeatureHeads,
        normalisers: Mapping[str, TargetNormaliser],
        *,
        channels: int = 64,
        units: int = 64,
    ) -> None:
        dims = heads.dims
        super().__init__(density, target_size=sum(dims.values()), channels=channels, units=units, expansion=heads)
        self.normalisers = nn.ModuleDict(normalisers)
        self.centres = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(dim), requires_grad=False) for name, dim in dims.items()}
        )
        self.surface_layer = nn.Conv2d(1, units, 1, bias=False)
        nn.init.zeros_(self.surface_layer.weight)
        with torch.no_grad():
            for unit, (slope, offset) in enumerate(SURFACE_UNITS[:units]):
                self.surface_layer.weight[unit] = -slope
                self.position_layer.weight[unit, 2] = slope
                self.position_layer.bias[unit] = slope * offset

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> AgglomeratedField:
        """An untrained field that weights fit, see `TrainedField`."""
        parts = {
            part: {name.removeprefix(part): v for name, v in state.items() if name.startswith(part)}
            for part in ("density.", "expansion.", "normalisers.")
        }
        heads = FeatureHeads.like(parts["expansion."])
        of = parts["normalisers."]
        normalisers = {name: TargetNormaliser.like(of[f"{name}.offset"], of[f"{name}.matrix"]) for name in heads.dims}
        channels, units = state["output_layer.weight"].shape
        density = DensityField.rebuilt(parts["density."], viewpoint, encoder)
        return cls(density, heads, normalisers, channels=channels, units=units)

    def _observed(self, maps: list[Tensor], seen: SingleViewObservation) -> FeatureObservation:
        observed = super()._observed(maps, seen)
        surface = self.surface_layer(seen.depth_code[:, None].detach())
        return dataclasses.replace(observed, features_map=observed.features_map + surface)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(self.expansion.dims)

    def learned(self, teacher: str, features: Tensor) -> Tensor:
        """A teacher's features as they are learned [..., D], of features [..., channels] of points."""
        return self.expansion.of(teacher, features)

    def target(self, teacher: str, features: Tensor) -> Tensor:
        """What a teacher's own features [..., D] are learned as [..., D]."""
        out: Tensor = self.normalisers[teacher](features)
        return out

    def original(self, teacher: str, features: Tensor) -> Tensor:
        """A teacher's own features less their centre [..., D], of features [..., channels] of points."""
        back, offset = self._back(teacher)
        out: Tensor = self.learned(teacher, features) @ back.T + (offset - self.centres[teacher])
        return out

    def space(self, teacher: str) -> TeacherSpace:
        """A teacher's features as a linear map of the units.

        Raises:
            ConfigurationError: The heads are no linear ones.
        """
        head = self.expansion.heads[teacher]
        if not isinstance(head, nn.Linear):
            raise ConfigurationError(
                f"the head of {teacher} is an MLP, which no robot can ask for words",
                where="agglomeration.heads",
                cure="Train with agglomeration.heads=linear",
            )
        back, offset = self._back(teacher)
        with torch.no_grad():
            through = back.double() @ head.weight.double()
            weight = through @ self.output_layer.weight.double()
            bias = through @ self.output_layer.bias.double() + offset - self.centres[teacher]
        return TeacherSpace(weight.float(), bias.float())

    def _back(self, teacher: str) -> tuple[Tensor, Tensor]:
        normaliser = self.normalisers[teacher]
        assert isinstance(normaliser, TargetNormaliser)
        return normaliser.inverse()

    def expand(self, features: Tensor) -> Tensor:
        """All teachers' features side by side [..., ΣD], each of length one, of features [..., channels] of points."""
        out: Tensor = functional.normalize(self.expansion(features), dim=-1)
        return out
