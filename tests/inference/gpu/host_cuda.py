"""A stand-in for pycuda and a GPU, whose memory is the host's: for the order of calls, buffers and errors.

Contexts are kept on a stack a thread, as pycuda keeps them (its ``cuda.hpp``); what is allocated, copied or freed
without the context being current raises, as there. `HostEngine` stands in for a deserialised engine: it runs the ONNX
graph on the pointers that it is given. Kernels are those of ``voxel_query.cu``, compiled for the CPU.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest

from scene_completion_ros.inference.gpu import device
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.tensorrt_runtime import UnusablePlanError


class Error(Exception):
    """As `pycuda.driver.Error`."""


class OutOfMemory(Error):
    """As `pycuda.driver.MemoryError`."""


class HostCuda:
    """What stands in for the driver; ``free`` bytes are left, and ``broken`` makes synchronising raise."""

    def __init__(self) -> None:
        self.free = 2**30
        self.allocated = 0
        self.allocations = 0
        self.pinned = 0
        self.retained = 0
        self.popped_at_the_end = 0
        self.broken = ""
        self._threads = threading.local()

    @property
    def stack(self) -> list[Any]:
        stack: list[Any] = self._threads.__dict__.setdefault("stack", [])
        return stack

    def require_context(self) -> None:
        if not self.stack:
            raise Error("explicit_context_dependent failed: invalid device context - no currently active context?")

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

            def total_memory(self) -> int:
                return 2**30

            def retain_primary_context(self) -> Context:
                cuda.retained += 1
                return Context()

        class Allocation:
            def __init__(self, size: int) -> None:
                cuda.require_context()
                if size > cuda.free:
                    raise OutOfMemory("cuMemAlloc failed: out of memory")
                self._memory = np.zeros(size, np.uint8)
                cuda.free -= size
                cuda.allocated += size
                cuda.allocations += 1

            def __int__(self) -> int:
                return int(self._memory.ctypes.data)

            def free(self) -> None:
                cuda.require_context()
                cuda.free += self._memory.nbytes
                cuda.allocated -= self._memory.nbytes

        class Pinned(bytearray):
            def free(self) -> None:
                cuda.require_context()
                cuda.pinned -= len(self)

        def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> Any:
            cuda.require_context()
            memory = Pinned(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            cuda.pinned += len(memory)
            cuda.allocations += 1
            return np.ndarray(shape, dtype, buffer=memory)

        def pagelocked_zeros(shape: tuple[int, ...], dtype: Any, mem_flags: int) -> Any:
            assert mem_flags == 2
            array = pagelocked_empty(shape, dtype)
            array[...] = 0
            array.base.get_device_pointer = lambda: array.ctypes.data
            return array

        class Event:
            def record(self, stream: object) -> None:
                cuda.require_context()
                self._at = time.perf_counter()

            def time_since(self, event: Event) -> float:
                return 1e3 * (self._at - event._at)

        class Module:
            """The machine code is the path of a shared library, see `cuda_cpu_device`."""

            def __init__(self, code: bytes) -> None:
                cuda.require_context()
                try:
                    self._library = ctypes.CDLL(code.decode())
                except OSError as error:
                    raise Error("cuModuleLoadDataEx failed: device kernel image is invalid") from error

            def get_function(self, name: str) -> Any:
                run = getattr(self._library, f"launch_{name}")

                def launch(*values: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: object) -> None:
                    cuda.require_context()
                    kept = [np.array([value]) for value in values]
                    run(grid[0], block[0], (ctypes.c_void_p * len(kept))(*(one.ctypes.data for one in kept)))

                return launch

        class Stream:
            handle = 7

            def __init__(self) -> None:
                cuda.require_context()

            def synchronize(self) -> None:
                if cuda.broken:
                    raise Error(cuda.broken)

        def copy(target: int, source: int, size: int) -> None:
            cuda.require_context()
            ctypes.memmove(target, source, size)

        module = ModuleType("pycuda.driver")
        contents: dict[str, Any] = {
            "Error": Error,
            "Context": Context,
            "Device": Device,
            "Stream": Stream,
            "device_attribute": type("device_attribute", (), {"MULTIPROCESSOR_COUNT": 16, "L2_CACHE_SIZE": 2**22}),
            "init": lambda: None,
            "mem_alloc": Allocation,
            "mem_get_info": lambda: (cuda.free, 2**30),
            "pagelocked_empty": pagelocked_empty,
            "pagelocked_zeros": pagelocked_zeros,
            "host_alloc_flags": type("host_alloc_flags", (), {"DEVICEMAP": 2}),
            "Event": Event,
            "module_from_buffer": Module,
            "memset_d8_async": lambda pointer, value, size, stream: ctypes.memset(pointer, value, size),
            "memcpy_htod": lambda pointer, array: copy(pointer, array.ctypes.data, array.nbytes),
            "memcpy_dtoh": lambda array, pointer: copy(array.ctypes.data, pointer, array.nbytes),
            "memcpy_htod_async": lambda pointer, array, stream: copy(pointer, array.ctypes.data, array.nbytes),
            "memcpy_dtoh_async": lambda array, pointer, stream: copy(array.ctypes.data, pointer, array.nbytes),
        }
        for name, value in contents.items():
            setattr(module, name, value)
        return module

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be pycuda."""
        package = ModuleType("pycuda")
        package.driver = self.module()  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "pycuda", package)
        patch.setitem(sys.modules, "pycuda.driver", package.driver)

        def popped() -> None:
            self.popped_at_the_end += 1

        patch.setattr(device, "_pop_released_context", popped)


class HostEngine:
    """Runs the graph that its plan is; ``offset`` is added to what it computes, and some plans are refused."""

    offset = 0.0
    refused: ClassVar[set[bytes]] = set()
    opened: ClassVar[list[HostEngine]] = []

    def __init__(self, plan: bytes, key: EngineKey, tensorrt: object) -> None:
        if plan in self.refused:
            raise UnusablePlanError("deserialising the engine failed", where="engine")
        self.key = key
        self._session: Any = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.batches: list[int] = []
        self.opened.append(self)

    def enqueue(self, image_pointer: int, features_pointer: int, stream_handle: int, batch: int = 1) -> None:
        assert stream_handle == 7
        assert self.key.batch[0] <= batch <= self.key.batch[1]
        self.batches.append(batch)
        images = _at(image_pointer, (batch, *self.key.image, 3), np.uint8)
        (features,) = self._session.run(["features"], {"image": images})
        _at(features_pointer, features.shape, features.dtype)[:] = features + np.asarray(self.offset, features.dtype)

    def close(self) -> None:
        self._session = None

    @property
    def closed(self) -> bool:
        return self._session is None


def _at(pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)
