"""From the feature of a point to the features of several teachers: a head each (CUA-O3D, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

HeadKind = Literal["linear", "mlp"]


class FeatureHeads(nn.Module):
    """One head a teacher on the same feature.

    Linear heads have no bias, as those that CUA-O3D released. All of them together say no more than the feature does:
    their outputs side by side have its rank. In exchange a robot asks for words without ever computing them, see
    `inference.feature_space`. The paper speaks of MLPs: Linear, LayerNorm, GELU, Linear.

    Args:
        channels: Dimension of the feature.
        dims: Dimension of each teacher's features by name.
        kind: The heads.
        hidden: Hidden width of an MLP.
    """

    def __init__(self, channels: int, dims: Mapping[str, int], kind: HeadKind = "linear", hidden: int = 256) -> None:
        super().__init__()
        self.kind = kind
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(channels, dim, bias=False)
                if kind == "linear"
                else nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim))
                for name, dim in dims.items()
            }
        )

    @property
    def dims(self) -> dict[str, int]:
        """Dimension of each teacher's features by name."""
        return {name: len(_last(head).weight) for name, head in self.heads.items()}

    def of(self, name: str, features: Tensor) -> Tensor:
        """A teacher's features [..., D] as they are learned, of features [..., C]."""
        out: Tensor = self.heads[name](features)
        return out

    def forward(self, features: Tensor) -> Tensor:
        """All teachers' features side by side, each of length one [..., ΣD]."""
        return torch.cat([functional.normalize(self.of(name, features), dim=-1) for name in self.heads], dim=-1)

    @staticmethod
    def like(state: Mapping[str, Tensor]) -> FeatureHeads:
        """Untrained heads that weights fit, by their names: `heads.TEACHER.weight`, or `heads.TEACHER.0.weight`."""
        linear = {name.split(".")[1]: v for name, v in state.items() if name.count(".") == 2}
        if linear:
            first = next(iter(linear.values()))
            return FeatureHeads(first.shape[1], {name: len(weight) for name, weight in linear.items()})
        last = {name.split(".")[1]: v for name, v in state.items() if name.endswith(".3.weight")}
        first = next(v for name, v in state.items() if name.endswith(".0.weight"))
        return FeatureHeads(
            first.shape[1], {name: len(weight) for name, weight in last.items()}, "mlp", hidden=len(first)
        )


def _last(head: nn.Module) -> nn.Linear:
    layer = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(layer, nn.Linear)
    return layer
