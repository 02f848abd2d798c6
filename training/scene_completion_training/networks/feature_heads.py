"""From one feature to the features of several teachers (CUA-O3D)."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

HeadKind: TypeAlias = Literal["linear", "mlp"]


class FeatureHeads(nn.Module):
    """From the feature of a point to the features of several teachers, by name and dimension: a head each.

    Linear ones have no bias, as those that CUA-O3D released (section 3.1); the paper speaks of MLPs. All of them
    together say no more than the feature does: their outputs have its rank. A robot asks for words without ever
    computing them, see `inference.feature_space`.
    """

    def __init__(self, channels: int, dims: Mapping[str, int], kind: HeadKind = "linear") -> None:
        super().__init__()
        self.dims = dict(dims)
        self.heads = nn.ModuleDict({name: _head(channels, dim, kind) for name, dim in dims.items()})

    def of(self, name: str, features: Tensor) -> Tensor:
        """A teacher's features [..., D] as they are learned, of features [..., C]."""
        return self.heads[name](features)  # type: ignore[no-any-return]

    def forward(self, features: Tensor) -> Tensor:
        """All teachers' features side by side, each of length one [..., ΣD]."""
        return torch.cat([functional.normalize(self.of(name, features), dim=-1) for name in self.dims], dim=-1)


def _head(channels: int, dim: int, kind: HeadKind) -> nn.Module:
    last = nn.Linear(channels, dim, bias=False)
    hidden = (nn.Linear(channels, channels), nn.LayerNorm(channels), nn.GELU())
    return last if kind == "linear" else nn.Sequential(*hidden, last)
