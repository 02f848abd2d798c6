"""Teachers brought to one scale, so that losses of fixed weights can be compared."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError

NormaliserKind = Literal["none", "standard"]
SMALLEST_DEVIATION = 1e-4


class TargetNormaliser(nn.Module):
    """y = M (x − m): what a teacher's features are learned as; and back.

    Args:
        dim: D.
        kind: "standard" divides each channel by its deviation, "none" only takes the offset away, which is zero unless
            it is set.
    """

    def __init__(self, dim: int, kind: NormaliserKind = "none") -> None:
        super().__init__()
        self.kind = kind
        self.offset: Tensor
        self.matrix: Tensor
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("matrix", torch.ones(dim if kind == "standard" else 0))

    @staticmethod
    def like(offset: Tensor, matrix: Tensor) -> TargetNormaliser:
        """An unfitted normaliser whose buffers have these shapes."""
        return TargetNormaliser(len(offset), "standard" if len(matrix) else "none")

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Takes mean and deviation from features [N, D]; "none" takes nothing.

        Raises:
            ConfigurationError: Features are not finite.
        """
        if not torch.isfinite(features).all():
            raise ConfigurationError("features are not finite", where="normaliser", cure="Make the targets once more")
        if self.kind == "standard":
            values = features.double()
            self.offset.copy_(values.mean(dim=0))
            self.matrix.copy_(1.0 / values.std(dim=0).clamp_min(SMALLEST_DEVIATION))

    def forward(self, features: Tensor) -> Tensor:
        """Features of the teacher [..., D] as they are learned [..., D]."""
        centred = features - self.offset
        return centred * self.matrix if self.kind == "standard" else centred

    def inverse(self) -> tuple[Tensor, Tensor]:
        """Matrix [D, D] and offset [D] of the way back, x = A y + m."""
        if self.kind == "standard":
            return torch.diag(1.0 / self.matrix), self.offset
        return torch.eye(len(self.offset)), self.offset
