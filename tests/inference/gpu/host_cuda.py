"""A stand-in for pycuda and a GPU, whose memory is the host's: for the order of calls, buffers and errors.

Contexts are kept on a stack a thread, as pycuda keeps them (its ``cuda.hpp``); what is allocated, copied or freed
without the context being current raises, as there. What is asked of a stream is done when that stream is waited for,
as late as a GPU may: who reads before, or waits for another stream, finds what lay there before, and new memory is
full of rubbish. With ``at_once`` it is done as early as a GPU may. Kernels are those of the package, compiled for the
CPU (`host_kernels`); arguments must have the number and the sizes that they take. What pycuda itself packs and
frees, and in which words it raises, only a GPU shows (``make test-gpu``).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.inference.gpu import device

RUBBISH = 0xA5


class Error(Exception):
    """As `pycuda.driver.Error`."""


class OutOfMemory(Error):
    """As `pycuda.driver.MemoryError`."""


class HostCuda:
    """What stands in for the driver.

    ``free`` bytes are left, ``broken`` makes synchronising raise, ``unloadable`` kernels are refused.
    """

    def __init__(self) -> None:
        self.free = 2**30
        self.allocated = 0
        self.allocations = 0
        self.copied = 0
        self.launched: list[str] = []
        self.pinned = 0
        self.retained = 0
        self.broken = ""
        self.unloadable = 0
        self._threads = threading.local()
        self._streams: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._handles = itertools.count(7)
        self.events: weakref.WeakSet[Any] = weakref.WeakSet()
        self.at_once = False

    @property
    def stack(self) -> list[Any]:
        stack: list[Any] = self._threads.__dict__.setdefault("stack", [])
        return stack

    def require_context(self) -> None:
        if not self.stack:
            raise Error("explicit_context_dependent failed: invalid device context - no currently active context?")

    def enqueue(self, stream: Any, work: Callable[[], object]) -> None:
        """Has work done in the order of a stream, which is given itself or by its handle, once that is waited for."""
        self.require_context()
        self._streams[getattr(stream, "handle", stream)].ask(work)

    def finish(self) -> None:
        """Waits for all streams, as freeing memory does."""
        self.require_context()
        for stream in list(self._streams.values()):
            stream.run()

    def module(self) -> ModuleType:
        """`pycuda.driver`."""
        cuda = self

        class Context:
            def push(self) -> None:
                cuda.stack.append(self)

            def detach(self) -> None:
                assert cuda.stack[-1] is self
                cuda.stack.pop()
                cuda.retained -= 1

            @staticmethod
            def pop() -> None:
                cuda.require_context()
                cuda.stack.pop()

        class Device:
            def __init__(self, ordinal: int) -> None:
                if ordinal:
                    raise Error("cuDeviceGet failed: invalid device ordinal")

            def name(self) -> str:
                return "Host"

            def compute_capability(self) -> tuple[int, int]:
                return 8, 7

            def get_attribute(self, attribute: object) -> int:
                return 16

            def retain_primary_context(self) -> Context:
                cuda.retained += 1
                return Context()

        class Allocation:
            def __init__(self, size: int) -> None:
                if size > cuda.free:
                    raise OutOfMemory("cuMemAlloc failed: out of memory")
                self._memory = np.full(size, RUBBISH, np.uint8)
                cuda.free -= size
                cuda.allocated += size
                cuda.allocations += 1

            def __int__(self) -> int:
                return int(self._memory.ctypes.data)

            def free(self) -> None:
                cuda.finish()
                cuda.free += self._memory.nbytes
                cuda.allocated -= self._memory.nbytes

        class Pinned(bytearray):
            def free(self) -> None:
                cuda.finish()
                cuda.pinned -= len(self)

        def pagelocked_zeros(shape: tuple[int, ...], dtype: Any, mem_flags: int) -> Any:
            assert mem_flags == 2
            memory = Pinned(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            cuda.pinned += len(memory)
            cuda.allocations += 1
            array = np.ndarray(shape, dtype, buffer=memory)
            array.base.get_device_pointer = lambda: array.ctypes.data
            return array

        class Module:
            """The machine code is the path of a shared library."""

            def __init__(self, code: bytes) -> None:
                cuda.require_context()
                if cuda.unloadable:
                    cuda.unloadable -= 1
                    raise Error("cuModuleLoadDataEx failed: device kernel image is invalid")
                try:
                    self._library = ctypes.CDLL(code.decode())
                except OSError as error:
                    raise Error("cuModuleLoadDataEx failed: device kernel image is invalid") from error

            def get_function(self, name: str) -> Any:
                run, layout = (getattr(self._library, f"{what}_{name}") for what in ("launch", "layout"))
                sizes = (ctypes.c_int * 64)()
                taken = sizes[: layout(sizes)]

                def launch(*values: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream) -> None:
                    assert [value.nbytes for value in values] == taken
                    cuda.launched.append(name)
                    kept = [np.array([value]) for value in values]  # their values now, as a GPU takes them

                    def work() -> None:
                        run(grid[0], block[0], (ctypes.c_void_p * len(kept))(*(one.ctypes.data for one in kept)))

                    cuda.enqueue(stream, work)

                return launch

        class Event:
            def __init__(self) -> None:
                cuda.require_context()
                self._at_ms = math.nan
                cuda.events.add(self)

            def record(self, stream: Stream) -> None:
                cuda.enqueue(stream, lambda: setattr(self, "_at_ms", 1e3 * time.perf_counter()))

            def time_since(self, earlier: Event) -> float:
                if math.isnan(self._at_ms - earlier._at_ms):
                    raise Error("cuEventElapsedTime failed: device not ready")
                return self._at_ms - earlier._at_ms

        class Stream:
            def __init__(self, flags: int) -> None:
                cuda.require_context()
                assert flags == 1  # what has no stream does not wait for it
                self.handle = next(cuda._handles)
                self.waiting: list[Callable[[], object]] = []
                cuda._streams[self.handle] = self

            def synchronize(self) -> None:
                cuda.require_context()
                if cuda.broken:
                    self.waiting.clear()
                    raise Error(cuda.broken)
                self.run()

            def ask(self, work: Callable[[], object]) -> None:
                self.waiting.append(work)
                if cuda.at_once:
                    self.run()

            def run(self) -> None:
                waiting, self.waiting = self.waiting, []
                for work in waiting:
                    work()

        def download(array: Any, pointer: int, stream: Stream | None = None) -> None:
            def copy() -> None:
                ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

            cuda.copied += array.nbytes
            copy() if stream is None else cuda.enqueue(stream, copy)

        def upload(pointer: int, array: Any, stream: Stream) -> None:
            # What is not page-locked is copied at once to memory that is.
            source = array if type(array.base) is Pinned or type(array.base) is np.ndarray else array.copy()
            cuda.enqueue(stream, lambda: ctypes.memmove(pointer, source.ctypes.data, source.nbytes))

        module = ModuleType("pycuda.driver")
        contents: dict[str, Any] = {
            "Error": Error,
            "Context": Context,
            "Device": Device,
            "Event": Event,
            "Stream": Stream,
            "device_attribute": type("device_attribute", (), {"MULTIPROCESSOR_COUNT": 16}),
            "init": lambda: None,
            "mem_alloc": Allocation,
            "mem_get_info": lambda: (cuda.free, 2**30),
            "pagelocked_zeros": pagelocked_zeros,
            "host_alloc_flags": type("host_alloc_flags", (), {"DEVICEMAP": 2}),
            "module_from_buffer": Module,
            "memset_d8_async": lambda pointer, value, size, stream: cuda.enqueue(
                stream, lambda: ctypes.memset(pointer, value, size)
            ),
            "memcpy_dtoh": download,
            "memcpy_htod_async": upload,
            "memcpy_dtoh_async": download,
        }
        for name, value in contents.items():
            setattr(module, name, value)
        return module

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be pycuda."""
        package, self.driver = ModuleType("pycuda"), self.module()
        package.driver = self.driver  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "pycuda", package)
        patch.setitem(sys.modules, "pycuda.driver", self.driver)
        patch.setattr(device, "_pop_released_context", lambda: None)
