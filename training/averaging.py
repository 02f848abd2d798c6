"""The exponential average of the weights, which can take over a part that was fitted at once."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn


class WeightAverage(EMAWeightAveraging):
    """Lightning's exponential average of the weights."""

    @torch.no_grad()
    def take_over(self, module: nn.Module, prefixes: tuple[str, ...]) -> None:
        """Sets averaged parameters to the module's present ones.

        Args:
            module: The module that is trained.
            prefixes: How the names of the parameters begin.
        """
        if self._average_model is None:
            return
        averaged = dict(self._average_model.module.named_parameters())
        for name, value in module.named_parameters():
            if name.startswith(prefixes):
                averaged[name].copy_(value)
