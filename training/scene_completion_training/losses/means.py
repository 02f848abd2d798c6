"""Means over what counts of a batch, also of a batch that several processes share."""

import torch
from torch import Tensor, distributed


def shared_count(count: Tensor, least: float = 1.0) -> Tensor:
    """What a process divides its sum by (a count, or sum of weights []): the mean of processes is then that of samples.

    A trainer averages gradients of processes: means of what counts here and not there would weigh more where few do.
    Every process has to call it, as often as the others. Outside of a step it is the count itself. `least`: for at
    least as much.
    """
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return count.clamp_min(least)
    total = count.detach().float()
    distributed.all_reduce(total)
    return total.clamp_min(least) / distributed.get_world_size()


def gathered(rows: Tensor, most: int) -> Tensor:
    """Rows [N, ...], N ≤ most, of this process and those of the others behind them, in their order; no gradient."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(distributed.get_world_size())]
    found = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(counts, counts[0] + len(rows))
    distributed.all_gather(found, padded)
    return torch.cat([part[: int(count)] for part, count in zip(found, counts, strict=True)])


def weighted_mean(values: Tensor, weight: Tensor, least: float = 1.0) -> Tensor:
    """Mean of values, of any shape, by weights or booleans of the same shape; see `shared_count`."""
    return (values * weight).sum() / shared_count(weight.sum(), least)
