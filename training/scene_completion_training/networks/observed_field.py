"""What every density field is once it has seen its images: a density logit at any point of the first view's frame."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from scene_completion_ros.voxels.occupancy import density_of_logit
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.viewpoint import Viewpoint


class ObservedField(Protocol):
    """A density field with its images encoded. Losses, rendering and evaluation ask for nothing else."""

    def density_logit(self, points: Tensor) -> Tensor:
        """Density before softplus [B, N] at points [B, N, 3], metres, optical frame of the first encoder view."""

    def density(self, points: Tensor) -> Tensor:
        """Density σ [B, N] per metre at points [B, N, 3]."""
        return density_of_logit(self.density_logit(points))  # type: ignore[no-any-return]

    def in_view(self, points: Tensor) -> Tensor:
        """Whether points [B, N, 3] project into an encoder view [B, N]; outside of all the field only guesses."""


class TrainedField(Protocol):
    """A field that is made again for the weights of a checkpoint."""

    @classmethod
    def rebuilt(cls, state: Mapping[str, Tensor], viewpoint: Viewpoint, encoder: EncoderDecoder) -> Any:
        """An untrained field of this kind that weights fit, on such an encoder; a `KeyError` for other weights."""
