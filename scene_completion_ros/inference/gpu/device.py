"""The GPU through pycuda: its primary context, streams, memory, and what its errors mean.

The primary context is the one that TensorRT, torch and everything on the CUDA runtime use. A context of pycuda's own
beside it would cost memory and make handles of one invalid in the other. It is current in a thread only between
``__enter__`` and ``__exit__``, so that it disturbs no other user of CUDA in the same thread.
"""

import ctypes
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from scene_completion_ros.errors import GpuError, SceneCompletionError

FailureKind = Literal["memory", "lost", "unknown"]

_OUT_OF_MEMORY = re.compile("out of memory|outofmemory|memory allocation|initialization failure with error: 2", re.I)
# After these nothing works in the process's context any more, whatever is tried.
_LOST = re.compile(
    "illegal memory access|illegal instruction|launch failed|launch failure|misaligned address|hardware stack error|"
    "device unavailable|busy or unavailable|timed out|invalid program counter|invalid pc|device-side assert|"
    "not supported on global/shared address space|ecc error|uncorrectable|context is destroyed|is lost|unknown error",
    re.I,
)
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceFacts:
    """What a GPU is."""

    name: str
    compute_capability: str  # such as "8.7"
    multiprocessors: int  # how many of them are on; the power mode of a Jetson changes that


class PrimaryContext:
    """The primary context of the first GPU that CUDA_VISIBLE_DEVICES leaves, held until all who hold it have closed it.

    Made, used and closed in one thread. With it as a context manager it is current in the thread; so must be whatever
    allocates, launches or frees. May be entered within itself. Raises GpuError where there is no such GPU, or it cannot
    be used.
    """

    def __init__(self) -> None:
        with gpu_errors("opening the GPU"):
            import pycuda.driver as cuda

            self.cuda: Any = cuda  # `pycuda.driver`
            cuda.init()
            device = cuda.Device(0)
            major, minor = device.compute_capability()
            self.facts = DeviceFacts(
                name=device.name(),
                compute_capability=f"{major}.{minor}",
                multiprocessors=int(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT)),
            )
            self._context: Any = device.retain_primary_context()
        self._holders = 1

    def __enter__(self) -> "PrimaryContext":
        self._context.push()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cuda.Context.pop()

    @contextmanager
    def work(self, doing: str) -> Iterator[None]:
        """The context is current for some work, whose errors become those of `gpu_errors`."""
        with gpu_errors(doing), self, gpu_errors(doing, self):  # entering may fail, too
            yield

    def hold(self) -> "PrimaryContext":
        """Hold it once more, so that it takes one more `close`: for whoever has memory in it."""
        self._holders += 1
        return self

    def stream(self) -> Any:
        """A new `pycuda.driver.Stream`; it and others, torch's default one too, do not wait for each other."""
        return self.cuda.Stream(_NON_BLOCKING)

    def allocate(self, size: int, what: str) -> Any:
        """Memory of the GPU (`pycuda.driver.DeviceAllocation`; ``int`` of it is the pointer, ``free`` frees it).

        `size`: bytes; `what`: what it is for, for the message where there is not enough. Raises GpuError where there is
        not enough, with the numbers.
        """
        with gpu_errors(f"allocating {size / 2**20:.0f} MiB for {what}", self):
            return self.cuda.mem_alloc(max(size, 1))

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Memory of the host that the GPU copies from and to without a detour; its base is to be freed."""
        array: NDArray[Any] = self.cuda.pagelocked_empty(shape, np.dtype(dtype))
        return array

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
        except self.cuda.Error as error:  # nothing can be done about a lost device
            _log.warning("the GPU's context could not be given back: %s", error)


def _pop_released_context() -> None:
    """Make a context that was detached while it was current so no more: pycuda forgets it, CUDA does not."""
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@contextmanager
def gpu_errors(doing: str, context: PrimaryContext | None = None) -> Iterator[None]:
    """Turns whatever goes wrong into a `GpuError`, for whoever gets one knows how to go on without a GPU.

    That includes what only another version of pycuda or TensorRT raises, such as a TypeError for a changed signature.
    `context`: where given, which must be current, the message says how much memory is free.
    """
    try:
        yield
    except SceneCompletionError:
        raise
    except Exception as error:
        free = ""
        if context is not None:
            try:
                left, total = context.cuda.mem_get_info()
                free = f"; {left / 2**20:.0f} of {total / 2**20:.0f} MiB are free"
            except context.cuda.Error:  # of a lost device
                pass
        raise explain_failure(f"{type(error).__name__}: {error}{free}", doing) from error


class GpuFailureError(GpuError):
    """Something failed on the GPU."""

    def __init__(self, what: str, kind: FailureKind, cure: str) -> None:
        super().__init__(what, where="GPU", cure=cure)
        self.kind = kind  # what is behind it, as far as that is known


def explain_failure(text: str, doing: str) -> GpuFailureError:
    """The error to raise for one of CUDA or TensorRT."""
    message = " ".join(text.split())
    if _OUT_OF_MEMORY.search(message):
        cure = (
            "End other programs on the GPU, or take a CPU engine. nvidia-smi lists programs; on a Jetson, tegrastats "
            "shows the memory that the GPU shares with everything else."
        )
        return GpuFailureError(f"out of memory while {doing}: {message}", "memory", cure)
    if _LOST.search(message):
        cure = "Restart the node; where it comes again, see dmesg for lines with NVRM or Xid, which say what happened."
        return GpuFailureError(f"the device was lost while {doing}: {message}", "lost", cure)
    return GpuFailureError(f"{doing} failed: {message}", "unknown", "See what scene-completion doctor says of the GPU.")
