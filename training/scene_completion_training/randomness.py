"""What is random in a step of a training."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class StepGenerator(torch.Generator):
    """Randomness of one step; each of its samples has its own besides."""

    def __new__(cls, *_: int) -> "StepGenerator":
        """Makes one on the CPU, so that a training goes the same way on any device."""
        return super().__new__(cls)

    def __init__(self, seed: int, step: int) -> None:
        self.manual_seed(hash((seed, step)) % (1 << 62))
        self._seeds = seed, step
        self._samples: list[torch.Generator] = []

    def samples(self, count: int) -> Sequence[torch.Generator]:
        """Generators of the samples of the batch, always the same ones; every batch has `count`."""
        if not self._samples:
            self._samples = [torch.Generator().manual_seed(hash((*self._seeds, k)) % (1 << 62)) for k in range(count)]
        return self._samples


def samples_of(generator: torch.Generator, count: int) -> Sequence[torch.Generator]:
    """A generator for each of so many samples of a batch; any other generator serves them one after the other."""
    return generator.samples(count) if isinstance(generator, StepGenerator) else [generator] * count


def drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """What `draw(shape, generator=...)` gives for a batch [B, ...]; of a `StepGenerator` each sample by its own."""
    if not isinstance(generator, StepGenerator):
        return draw(tuple(shape), generator=generator)
    return torch.stack([draw(tuple(shape[1:]), generator=sample) for sample in generator.samples(shape[0])])
