"""Agreement of predicted classes with labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def class_cross_entropy(logits: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy of the points that count, in nats; 0 where none does.

    Args:
        logits: [B, N, K].
        classes: True classes [B, N], int64.
        counted: bool [B, N].
    """
    each = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    return (each * counted).sum() / counted.sum().clamp_min(1)
