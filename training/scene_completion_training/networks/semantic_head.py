"""The distillation head of unsupervised semantics, and the buffer of crops it compares with (STEGO; SceneDINO)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

DROPOUT = 0.1


class DistillationHead(nn.Module):
    """z = W1 x + W3 ReLU(W2 x), of length one: features [D] of a foundation model to a space that falls into clusters.

    That has 64 dimensions in SceneDINO.
    """

    def __init__(self, size: int, channels: int = 64) -> None:
        super().__init__()
        self.drop_input = nn.Dropout(DROPOUT)
        self.drop_output = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(size, channels)
        self.nonlinear = nn.Sequential(nn.Linear(size, size), nn.ReLU(inplace=True), nn.Linear(size, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Returns z [..., channels] of features [..., D], which are brought to length one first."""
        x = self.drop_input(functional.normalize(features, dim=-1, eps=1e-6))
        out = self.drop_output(self.linear(x)) + self.drop_output(self.nonlinear(x))
        return functional.normalize(out, dim=-1, eps=1e-6)


@dataclass(frozen=True, eq=False)
class Partners:
    """Crops that others are compared with: features [N, P, D] of a similar crop and of any one."""

    similar: Tensor  # of one of the nearest crops by mean feature
    random: Tensor  # of any crop


class CropBuffer(nn.Module):
    """The last crops, first in first out, with their mean features.

    Args:
        capacity: Crops that are kept (256 in SceneDINO).
        points: Points of a crop.
        size: Dimension D of their features.
        neighbours: Nearest crops that a partner is drawn from (4 in SceneDINO: five, without the crop itself).
    """

    def __init__(self, capacity: int, points: int, size: int, *, neighbours: int = 4) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.features: Tensor
        self.means: Tensor
        self.filled: Tensor
        self.position: Tensor
        self.register_buffer("features", torch.zeros(capacity, points, size, dtype=torch.float16))
        self.register_buffer("means", torch.zeros(capacity, size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, crops: Tensor) -> None:
        """Adds crops [N, P, D] of features of length one; the oldest leave."""
        capacity = len(self.features)
        crops = crops[-capacity:]
        slots = (self.position + torch.arange(len(crops), device=crops.device)) % capacity
        self.features[slots] = crops.to(self.features.dtype)
        self.means[slots] = functional.normalize(crops.mean(dim=1), dim=-1, eps=1e-6)
        self.position.copy_((self.position + len(crops)) % capacity)
        self.filled.copy_((self.filled + len(crops)).clamp_max(capacity))

    @torch.no_grad()
    def partners(self, crops: Tensor, generator: torch.Generator) -> Partners | None:
        """Partners of crops [N, P, D] that are not in the buffer yet; None before it holds enough.

        Only the part that is filled takes part: the published search also finds the empty rows.
        """
        filled = int(self.filled)
        if filled < self.neighbours:
            return None
        mean = functional.normalize(crops.mean(dim=1), dim=-1, eps=1e-6)
        nearest = (mean @ self.means[:filled].T).topk(self.neighbours, dim=1).indices.cpu()
        one = torch.randint(self.neighbours, (len(crops), 1), generator=generator)
        any_one = torch.randint(filled, (len(crops),), generator=generator)
        chosen = torch.gather(nearest, 1, one)[:, 0]
        return Partners(*(self.features[index.to(self.features.device)].float() for index in (chosen, any_one)))
