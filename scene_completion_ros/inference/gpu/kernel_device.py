"""What the kernels' host side needs of a device, so that the same code drives a GPU and, in tests, the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory that kernels read and write; it lives as long as this object.

    Attributes:
        pointer: Its address for kernels.
        shape, dtype: What lies there, row by row.
        owner: What keeps the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object


@dataclass(frozen=True, eq=False)
class SharedBuffer(Buffer):
    """Page-locked memory of the host that kernels write to across the bus.

    Attributes:
        array: The same memory for the host; its content is defined after `KernelDevice.synchronise`.
    """

    array: NDArray[Any]


Argument: TypeAlias = "Buffer | np.int32 | np.float32 | None"
"""A kernel's argument; None is a null pointer."""


class KernelDevice(Protocol):
    """One device, with the kernels of one student, and one stream on which all is done in order."""

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A copy of an array [...] on the device."""

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> Buffer:
        """Memory on the device whose content is not defined."""

    def shared(self, shape: Sequence[int], dtype: type[np.generic]) -> SharedBuffer:
        """Memory of the host that the device writes to."""

    def clear(self, buffer: Buffer) -> None:
        """Zeros."""

    def launch(self, kernel: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Runs a kernel of ``voxel_query.cu``, after all that was asked for before."""

    def copy(self, source: Buffer, target: SharedBuffer) -> None:
        """Copies from the device to the host, after all that was asked for before."""

    def begin(self) -> None:
        """Takes note of when all that was asked for until now is done: the first lap begins there."""

    def lap(self, name: str) -> None:
        """Takes note of when all that was asked for until now is done; each name once between two `begin`."""

    def captured(self, ask: Callable[[], None]) -> Callable[[], None]:
        """Asks for the same work again, all of it at once, and for its laps.

        Args:
            ask: Asks for it, from `begin` to the last lap. It must have run before, and must do the same each time.

        Raises:
            GpuError: It cannot be captured.
        """

    def synchronise(self) -> None:
        """Waits until everything that was asked for is done."""

    def laps_ms(self) -> dict[str, float]:
        """Milliseconds of each lap since the last `begin`; known after `synchronise`."""

    def download(self, buffer: Buffer) -> NDArray[Any]:
        """A copy of what lies in a buffer, after all that was asked for."""

    def close(self) -> None:
        """Frees all memory; nothing of it may be touched any more."""
