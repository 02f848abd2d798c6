"""Learned weights of several losses: a teacher counts by how well it can be learned (CUA-O3D, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from scene_completion_ros.errors import ConfigurationError

Form = Literal["log1p_sq", "log1p", "fixed"]
_REGULARISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "log1p_sq": lambda p: torch.log1p(p.square()),
    "log1p": torch.log1p,
}


class UncertaintyWeights(nn.Module):
    """L = Σ_i L_i / (2 p_i²) + r(p_i), p_i > 0 learned with the network, one for each loss.

    The regulariser r is `log(1 + p²)` in the released code of CUA-O3D ("log1p_sq") and `log(1 + p)` in the paper
    ("log1p"). Neither falls below zero. "fixed" has no p: the sum of the losses.

    For a constant loss the optimum is p² = (L + √(L² + 8L)) / 4, and p³ = L (1 + p).

    p = exp(a), so that it never reaches the pole at zero; the released p has no bound and may change its sign.

    Args:
        names: Names of the losses.
        form: The regulariser.

    Raises:
        ConfigurationError: No such form.
    """

    def __init__(self, names: Sequence[str], form: Form = "log1p_sq") -> None:
        super().__init__()
        if form != "fixed" and form not in _REGULARISERS:
            raise ConfigurationError(f"{form!r}", where="uncertainty", cure=f"Take fixed, {', '.join(_REGULARISERS)}")
        self.form = form
        self.names = tuple(names)
        self.logarithms = nn.ParameterList([] if form == "fixed" else [torch.zeros(()) for _ in names])

    @property
    def uncertainties(self) -> dict[str, float]:
        """Uncertainty p of each loss; none where weights are fixed."""
        return {name: float(a.detach().exp()) for name, a in zip(self.names, self.logarithms, strict=False)}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The total [] of losses [] by name: those that it was made for."""
        if self.form == "fixed":
            return torch.stack([losses[name] for name in self.names]).sum()
        regulariser = _REGULARISERS[self.form]
        terms = []
        for name, a in zip(self.names, self.logarithms, strict=True):
            p = a.exp()
            terms.append(0.5 / p.square() * losses[name] + regulariser(p))
        return torch.stack(terms).sum()
