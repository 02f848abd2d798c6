"""Teachers brought to one scale, so that losses of fixed weights can be compared: standardised, or by PHI-S (RADIO)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError

NormaliserKind = Literal["none", "standard", "phi_s"]
_PALEY = (19, 11)  # primes that are 3 modulo 4: Hadamard matrices of 20 and 12
SMALLEST_DEVIATION = 1e-4


class TargetNormaliser(nn.Module):
    """y = M (x − m): what a teacher's features are learned as; and back.

    "standard" divides each channel by its deviation. "phi_s" (Ranzinger et al. 2024) rotates the channels by their
    principal axes and a Hadamard matrix, and divides all by one number. Every channel then has variance one, and
    distances keep their proportions.

    Args:
        dim: D.
        kind: "none" only takes the offset away, which is zero unless it is set.
    """

    def __init__(self, dim: int, kind: NormaliserKind = "none") -> None:
        super().__init__()
        self.kind = kind
        self.offset: Tensor
        self.matrix: Tensor
        self.register_buffer("offset", torch.zeros(dim))
        shape = {"none": (0,), "standard": (dim,), "phi_s": (dim, dim)}[kind]
        self.register_buffer("matrix", torch.eye(dim) if kind == "phi_s" else torch.ones(shape))

    @staticmethod
    def like(offset: Tensor, matrix: Tensor) -> TargetNormaliser:
        """An unfitted normaliser whose buffers have these shapes."""
        kind: NormaliserKind = "phi_s" if matrix.ndim == 2 else "standard" if len(matrix) else "none"
        return TargetNormaliser(len(offset), kind)

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Takes mean and covariance from features [N, D]; "none" takes nothing.

        Raises:
            ConfigurationError: No Hadamard matrix of this size is known here, or features are not finite.
        """
        if not torch.isfinite(features).all():
            raise ConfigurationError("features are not finite", where="normaliser", cure="Make the targets once more")
        if self.kind == "none":
            return
        values = features.double()
        mean = values.mean(dim=0)
        self.offset.copy_(mean)
        if self.kind == "standard":
            self.matrix.copy_(1.0 / values.std(dim=0).clamp_min(SMALLEST_DEVIATION))
            return
        centred = values - mean
        covariance = centred.T @ centred / max(len(values) - 1, 1)
        variances, axes = torch.linalg.eigh(covariance)
        scale = variances.clamp_min(0.0).mean().sqrt().clamp_min(SMALLEST_DEVIATION)
        rotation = torch.from_numpy(hadamard(len(mean))) / len(mean) ** 0.5 @ axes.T
        self.matrix.copy_(rotation / scale)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the teacher [..., D] as they are learned [..., D]."""
        centred = features - self.offset
        if self.kind == "none":
            return centred
        return centred * self.matrix if self.kind == "standard" else centred @ self.matrix.T

    def inverse(self) -> tuple[Tensor, Tensor]:
        """Matrix [D, D] and offset [D] of the way back, x = A y + m."""
        dim = len(self.offset)
        if self.kind == "none":
            return torch.eye(dim), self.offset
        if self.kind == "standard":
            return torch.diag(1.0 / self.matrix), self.offset
        # A rotation by R / s goes back by s Rᵀ, and s² = D / |R / s|².
        return self.matrix.T * (dim / self.matrix.square().sum()), self.offset


def hadamard(size: int) -> NDArray[np.float64]:
    """A matrix of ±1 whose rows are orthogonal [size, size]: products of those of Sylvester and of Paley.

    Raises:
        ConfigurationError: None of these has this size.
    """
    matrix: NDArray[np.float64] = np.ones((1, 1))
    left = size
    while left > 1 and left & (left - 1):
        prime = next((p for p in _PALEY if left % (p + 1) == 0), None)
        if prime is None:
            raise ConfigurationError(
                f"no Hadamard matrix of {size} rows is known here",
                where="normaliser",
                cure="Take normaliser: standard for this teacher",
            )
        matrix, left = np.asarray(np.kron(matrix, _paley(prime))), left // (prime + 1)
    return np.asarray(np.kron(matrix, scipy.linalg.hadamard(left)), np.float64)


def _paley(prime: int) -> NDArray[np.float64]:
    """Paley's first construction for a prime that is 3 modulo 4 [prime + 1, prime + 1]."""
    squares = {(k * k) % prime for k in range(1, prime)}
    character = np.array([0.0] + [1.0 if k in squares else -1.0 for k in range(1, prime)])
    index = (np.arange(prime)[:, None] - np.arange(prime)) % prime
    skew = np.zeros((prime + 1, prime + 1))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1.0, -1.0, character[index]
    return skew + np.eye(prime + 1)
