"""Learned weights of several losses: a teacher counts by how well it can be learned (CUA-O3D, section 3.3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class UncertaintyWeights(nn.Module):
    """L = Σ_i L_i / (2 p_i²) + log(1 + p_i²), p_i > 0 learned with the network, one for each loss.

    The regulariser is that of the released code of CUA-O3D; the paper has log(1 + p). It never falls below zero. For a
    constant loss the optimum is p² = (L + √(L² + 8L)) / 4. p = exp(a), so that it never reaches the pole at zero; the
    released p has no bound and may change its sign.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.logarithms = nn.ParameterList([torch.zeros(()) for _ in names])

    @property
    def uncertainties(self) -> dict[str, float]:
        """Uncertainty p of each loss."""
        return {name: float(a.detach().exp()) for name, a in zip(self.names, self.logarithms, strict=True)}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The total [] of losses [] by name: those that it was made for."""
        squares = [a.exp().square() for a in self.logarithms]
        terms = [0.5 / p * losses[name] + torch.log1p(p) for name, p in zip(self.names, squares, strict=True)]
        return torch.stack(terms).sum()
