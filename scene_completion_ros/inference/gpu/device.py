"""The GPU through pycuda: its primary context, a stream, memory, and what its errors mean.

The primary context is the one that TensorRT, torch and everything on the CUDA runtime use. A context of pycuda's own
beside it would cost memory and make handles of one invalid in the other. It is current in a thread only between
``__enter__`` and ``__exit__``, so that it disturbs no other user of CUDA in the same thread.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scene_completion_ros.errors import GpuError

FailureKind = Literal["memory", "lost", "unknown"]

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "memory allocation", "initialization failure with error: 2")
# After these nothing works in the process's context any more, whatever is tried.
_LOST = (
    "illegal memory access",
    "illegal instruction",
    "launch failed",
    "launch failure",
    "misaligned address",
    "hardware stack error",
    "device unavailable",
    "busy or unavailable",
    "timed out",
    "invalid program counter",
    "invalid pc",
    "device-side assert",
    "not supported on global/shared address space",
    "ecc error",
    "uncorrectable",
    "context is destroyed",
    "is lost",
    "unknown error",
)
RESTART = "Restart the node; where it comes again, see dmesg for lines with NVRM or Xid, which say what happened"

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is.

    Attributes:
        compute_capability: Such as "8.7".
        multiprocessors: How many of them are on; the power mode of a Jetson changes that.
        memory_bytes: Its memory; on a Jetson that of the whole machine.
        cache_bytes: Its second-level cache.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory_bytes: int
    cache_bytes: int


class PrimaryContext:
    """The primary context of the first GPU that CUDA_VISIBLE_DEVICES leaves, held until all who hold it have closed it.

    Made, used and closed in one thread. With it as a context manager it is current in the thread; so must be whatever
    allocates, launches or frees. May be entered within itself.

    Attributes:
        facts: What it is.

    Raises:
        GpuError: There is no such GPU, or it cannot be used.
    """

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda: Any = cuda
        with gpu_errors("opening the GPU"):
            cuda.init()
            device = cuda.Device(0)
            major, minor = device.compute_capability()
            self.facts = DeviceFacts(
                name=device.name(),
                compute_capability=f"{major}.{minor}",
                multiprocessors=int(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
                memory_bytes=int(device.total_memory()),
                cache_bytes=int(device.get_attribute(cuda.device_attribute.L2_CACHE_SIZE)),
            )
            self._context: Any = device.retain_primary_context()
        self._holders = 1

    def __enter__(self) -> PrimaryContext:
        with gpu_errors("entering the context"):
            self._context.push()
        return self

    def __exit__(self, *exception: object) -> None:
        with gpu_errors("leaving the context"):
            self._cuda.Context.pop()

    def hold(self) -> PrimaryContext:
        """Hold it once more, so that it takes one more `close`: for whoever has memory in it."""
        self._holders += 1
        return self

    def stream(self) -> Any:
        """A new stream (`pycuda.driver.Stream`; its ``handle`` is what TensorRT takes).

        It waits for no other stream, and no other stream waits for it. That holds for the default stream too, on which
        torch works. Nobody may use the default stream at all while work of a stream that waits for it is captured.
        """
        with gpu_errors("making a stream"):
            return self._cuda.Stream(_NON_BLOCKING)

    def allocate(self, size: int, what: str) -> Any:
        """Memory of the GPU (`pycuda.driver.DeviceAllocation`; ``int`` of it is the pointer, ``free`` frees it).

        Args:
            size: Bytes.
            what: What it is for, for the message where there is not enough.

        Raises:
            GpuError: There is not enough, with the numbers.
        """
        with gpu_errors(f"allocating {size / 2**20:.0f} MiB for {what}", self):
            return self._cuda.mem_alloc(size)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Memory of the host that the GPU copies from and to without a detour."""
        with gpu_errors("allocating pinned memory of the host", self):
            array: NDArray[Any] = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        return array

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Free such memory; the array must not be touched any more."""
        allocation: Any = array.base
        allocation.free()

    def copy_to_device(self, pointer: int, array: NDArray[Any], stream: Any) -> None:
        """Copy pinned memory to the GPU, in the order of a stream."""
        self._cuda.memcpy_htod_async(pointer, array, stream)

    def copy_to_host(self, array: NDArray[Any], pointer: int, stream: Any) -> None:
        """Copy from the GPU into pinned memory, in the order of a stream."""
        self._cuda.memcpy_dtoh_async(array, pointer, stream)

    def free_memory(self) -> tuple[int, int]:
        """Bytes of the GPU that are free, and all of them."""
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def close(self) -> None:
        """Give the context back, once all have who hold it. All that was allocated in it must be freed before."""
        self._holders -= 1
        if self._holders:
            return
        context, self._context = self._context, None
        try:
            context.push()
            context.detach()
            _pop_released_context()
        except self._cuda.Error as error:  # nothing can be done about a lost device
            _log.warning("the GPU's context could not be given back: %s", error)


def _pop_released_context() -> None:
    """Make a context that was detached while it was current so no more: pycuda forgets it, CUDA does not."""
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@contextmanager
def gpu_errors(doing: str, context: PrimaryContext | None = None) -> Iterator[None]:
    """Turn errors of pycuda into `GpuError`.

    Args:
        context: Where given, how much memory is free is said.
    """
    import pycuda.driver as cuda

    try:
        yield
    except cuda.Error as error:
        memory = None
        if context is not None:
            try:
                memory = context.free_memory()
            except cuda.Error:  # of a lost device
                memory = None
        raise explain_failure(str(error), doing, memory) from error


class GpuFailureError(GpuError):
    """Something failed on the GPU.

    Attributes:
        kind: What is behind it, as far as that is known.
    """

    def __init__(self, what: str, kind: FailureKind, cure: str) -> None:
        super().__init__(what, where="GPU", cure=cure)
        self.kind = kind


def explain_failure(text: str, doing: str, memory: tuple[int, int] | None = None) -> GpuFailureError:
    """The error to raise for one of CUDA or TensorRT.

    Args:
        memory: Bytes of the GPU that are free, and all of them; None where unknown.
    """
    said = " ".join(text.split())
    lowered = said.lower()
    free = f"; {memory[0] / 2**20:.0f} of {memory[1] / 2**20:.0f} MiB are free" if memory else ""
    if any(words in lowered for words in _OUT_OF_MEMORY):
        cure = (
            "End other programs on the GPU, lower gpu_workspace, or take a CPU engine. nvidia-smi lists programs; on a "
            "Jetson, tegrastats shows the memory that the GPU shares with everything else."
        )
        return GpuFailureError(f"out of memory while {doing}: {said}{free}", "memory", cure)
    if any(words in lowered for words in _LOST):
        return GpuFailureError(f"the device was lost while {doing}: {said}", "lost", f"{RESTART}.")
    return GpuFailureError(
        f"{doing} failed: {said}{free}", "unknown", "See what scene-completion doctor says of the GPU."
    )
