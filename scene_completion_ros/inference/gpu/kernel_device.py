"""The kernels of one student on a GPU, through pycuda: memory for them, and one stream on which all is in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.gpu.device import PrimaryContext, gpu_errors
from scene_completion_ros.inference.gpu.kernels import CompiledKernels


@dataclass(frozen=True, eq=False)
class Buffer:
    """Memory that kernels read and write; it lives as long as this object."""

    pointer: int  # its address for kernels
    # shape, dtype: What lies there, row by row.
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object  # what keeps the memory


@dataclass(frozen=True, eq=False)
class SharedBuffer(Buffer):
    """Page-locked memory of the host that kernels write to across the bus."""

    array: NDArray[Any]  # the same memory for the host; its content is defined after `KernelDevice.synchronise`


class EncodedOnDevice(NamedTuple):
    """What an encoder says of an image, as `EncodedImage`, in memory of the device."""

    features: Buffer  # float16 or float32 [..., h, w, C + E]
    volume: Buffer | None = None  # of the same type [..., X, Y, Z]; None where the encoder gives none
    depth: Buffer | None = None  # float32 [..., h', w'], whatever the type of the others; beside a volume only


Argument: TypeAlias = "Buffer | np.int32 | np.float32 | None"  # a kernel's argument; None is a null pointer


class KernelDevice:
    """Runs kernels on a GPU, in the primary context.

    Made, used and closed with the context current, in one thread. Errors are those of pycuda unless stated: callers do
    their work in `PrimaryContext.work`. Raises GpuError where the kernels cannot be loaded. `stream`: what all is done
    on (`pycuda.driver.Stream`), for example an encoder's; a new one by default.
    """

    def __init__(self, context: PrimaryContext, kernels: CompiledKernels, stream: Any = None) -> None:
        self._context = context
        self._cuda = context.cuda
        self.stream: Any = context.stream() if stream is None else stream
        self._owned: list[Any] = []
        self._events: dict[str, Any] = {}
        self._laps: list[str] = []
        self._laps_ms: dict[str, float] = {}
        with gpu_errors("loading the kernels", context):
            self._module: Any = self._cuda.module_from_buffer(kernels.cubin)
            self._functions = {name: self._module.get_function(name) for name in kernels.names}

    def upload(self, array: NDArray[Any]) -> Buffer:
        """A copy of an array [...] on the device; returns when it is done."""
        contiguous = np.ascontiguousarray(array)
        buffer = self._allocated(contiguous.shape, contiguous.dtype)
        self.refill(buffer, contiguous)
        return buffer

    def refill(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copies an array [...] over the begin of what lies in a buffer; returns when it is done."""
        contiguous = np.ascontiguousarray(array)
        if contiguous.size:
            self._cuda.memcpy_htod_async(buffer.pointer, contiguous, self.stream)
            self.stream.synchronize()

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> Buffer:
        """Memory on the device whose content is not defined. Raises GpuError where there is not enough."""
        return self._allocated(tuple(shape), np.dtype(dtype))

    def shared(self, shape: Sequence[int], dtype: type[np.generic]) -> SharedBuffer:
        """Memory of the host that the device writes to."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP
        array: NDArray[Any] = self._cuda.pagelocked_zeros(tuple(shape), np.dtype(dtype), mem_flags=flags)
        owner: Any = array.base
        self._owned.append(owner)
        return SharedBuffer(int(owner.get_device_pointer()), array.shape, array.dtype, owner, array)

    def clear(self, buffer: Buffer) -> None:
        """Zeros."""
        size = int(np.prod(buffer.shape)) * buffer.dtype.itemsize
        self._cuda.memset_d8_async(buffer.pointer, 0, size, self.stream)

    def launch(self, kernel: str, blocks: int, threads: int, *arguments: Argument) -> None:
        """Runs a kernel of ``voxel_query.cu``, after all that was asked for before."""
        values = [_value(argument) for argument in arguments]
        self._functions[kernel](*values, grid=(blocks, 1, 1), block=(threads, 1, 1), stream=self.stream)

    def copy(self, source: Buffer, target: SharedBuffer) -> None:
        """Copies from the device to the host, after all that was asked for before."""
        self._cuda.memcpy_dtoh_async(target.array, source.pointer, self.stream)

    def begin(self) -> None:
        """Takes note of when all that was asked for until now is done: the first lap begins there."""
        self._laps.clear()  # of a frame that failed
        self.lap("")

    def lap(self, name: str) -> None:
        """Takes note of when all that was asked for until now is done; each name once between two `begin`."""
        if name not in self._events:
            self._events[name] = self._cuda.Event()
        self._events[name].record(self.stream)
        self._laps.append(name)

    def synchronise(self) -> None:
        """Waits until everything that was asked for is done."""
        laps, self._laps = self._laps, []
        self.stream.synchronize()
        events = [self._events[name] for name in laps]
        times = [float(later.time_since(former)) for former, later in pairwise(events)]
        self._laps_ms = dict(zip(laps[1:], times, strict=True))

    def laps_ms(self) -> dict[str, float]:
        """Milliseconds of each lap since the last `begin`; known after `synchronise`."""
        return self._laps_ms

    def download(self, buffer: Buffer) -> NDArray[Any]:
        """A copy of what lies in a buffer, after all that was asked for."""
        array = np.empty(buffer.shape, buffer.dtype)
        self.stream.synchronize()
        if array.size:
            self._cuda.memcpy_dtoh(array, buffer.pointer)
        return array

    def close(self) -> None:
        """Frees all memory; nothing of it may be touched any more."""
        while self._owned:
            self._owned.pop().free()
        self._functions.clear()
        self._events.clear()
        self.stream = None  # with the context current
        self._module = None

    def _allocated(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        allocation = self._context.allocate(int(np.prod(shape)) * dtype.itemsize, "the voxel query")
        self._owned.append(allocation)
        return Buffer(int(allocation), shape, dtype, allocation)


def _value(argument: Argument) -> np.number[Any]:
    if argument is None:
        return np.uint64(0)
    return np.uint64(argument.pointer) if isinstance(argument, Buffer) else argument
