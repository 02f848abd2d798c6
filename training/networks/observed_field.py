"""What every density field is once it has seen its images: a density logit at any point of the first view's frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.viewpoint import Viewpoint


class ObservedField(Protocol):
    """A density field with its images encoded. Losses, rendering and evaluation ask for nothing else."""

    def density_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3], metres, optical frame of the first encoder view."""

    def density(self, points: Tensor) -> Tensor:
        """Density σ [B, N] per metre at points [B, N, 3]."""

    def in_view(self, points: Tensor) -> Tensor:
        """Whether points [B, N, 3] project into an encoder view [B, N]; outside of all the field only guesses."""


class PriorField(Protocol):
    """A field whose head can be fitted before it has seen any image."""

    @property
    def spec(self) -> PointCodeSpec:
        """Point code."""

    def prior_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3] that an image without features gives."""

    def prior_parameters(self) -> list[nn.Parameter]:
        """What of the head does not depend on features."""

    def mute_depth_units(self) -> None:
        """Takes the units that start as ramps around channel 0 out of the density; they come in with the images."""


class TrainedField(Protocol):
    """A field that is made again for the weights of a checkpoint."""

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> Any:
        """An untrained field of this kind that weights fit, on such an encoder; a `KeyError` for other weights."""
