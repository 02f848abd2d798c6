"""The order in which a training sees its samples, also after it was resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler


class StepSampler(Sampler[int]):
    """Sample numbers in order, from where the training stands: what a resumed training still has to see.

    Of several processes each takes every so many-th batch.

    Args:
        length: Number of samples of the whole training, of all processes together.
        done: Says how many samples have been used when the iteration starts.
        batch_size: Samples of a batch of one process.
        rank: Number of this process.
    """

    def __init__(
        self, length: int, done: Callable[[], int], *, batch_size: int = 1, rank: int = 0, processes: int = 1
    ) -> None:
        self.length = length
        self.done = done
        self.batch_size = batch_size
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[int]:
        numbers = range(self.done(), self.length)
        return (n for n in numbers if n // self.batch_size % self.processes == self.rank)

    def __len__(self) -> int:
        # The whole length, also after a resumption: the trainer counts the batches of the epoch from its beginning.
        return self.length // self.processes
