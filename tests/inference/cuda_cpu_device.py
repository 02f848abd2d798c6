"""A device for `KernelDevice` that runs ``voxel_query.cu`` on the CPU, compiled as C++ (see ``cuda_on_cpu.h``)."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.gpu.kernel_device import Argument, Buffer, SharedBuffer
from scene_completion_ros.inference.gpu.kernels import KERNELS, SOURCE, KernelSizes

_SHIM = Path(__file__).with_name("cuda_on_cpu.h")


def compiled(sizes: KernelSizes, folder: Path) -> ctypes.CDLL:
    """The kernels as a shared library."""
    return ctypes.CDLL(str(compiled_library(sizes, folder)))


def compiled_library(sizes: KernelSizes, folder: Path, *changed: tuple[str, str]) -> Path:
    """File of the kernels as a shared library; parts of the source may be replaced by others."""
    entries = "\n".join(
        f'extern "C" void launch_{name}(int blocks, int threads, void** arguments) '
        f"{{ on_cpu::launch({name}, blocks, threads, arguments); }}\n"
        f'extern "C" int layout_{name}(int* sizes) {{ return on_cpu::layout({name}, sizes); }}'
        for name in KERNELS
        if sizes.units or name != "query_labels"
    )
    kernels = SOURCE.read_text(encoding="utf-8")
    for right, wrong in changed:
        assert right in kernels
        kernels = kernels.replace(right, wrong)
    text = f'#include "{_SHIM}"\n{kernels}\n{entries}\n'
    name = hashlib.sha256((text + repr(sizes)).encode()).hexdigest()[:16]
    source, library = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(text, encoding="utf-8")
    subprocess.run(
        [
            "g++", "-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-unknown-pragmas",
            "-Wno-maybe-uninitialized",  # taps, of whose first load the compiler is not sure
            *sizes.definitions(), "-o", str(library), str(source),
        ],
        check=True,
    )  # fmt: skip
    return library


class CpuDevice:
    """Runs kernels at once; what it allocated and copied is counted."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.allocated = 0
        self.copied = 0
        self.launched: list[str] = []
        self.closed = False
        self._laps: list[tuple[str, float]] = []
        self._laps_ms: dict[str, float] = {}

    def upload(self, array: NDArray[Any]) -> Buffer:
        self.allocated += 1
        return _buffer(np.ascontiguousarray(array).copy())

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> Buffer:
        self.allocated += 1
        found = np.empty(tuple(shape), dtype)
        found.reshape(-1).view(np.uint8)[:] = 0xA5  # nobody may rely on what lies there
        return _buffer(found)

    def shared(self, shape: Sequence[int], dtype: type[np.generic]) -> SharedBuffer:
        array = np.zeros(tuple(shape), dtype)
        self.allocated += 1
        return SharedBuffer(array.ctypes.data, array.shape, array.dtype, array, array)

    def clear(self, buffer: Buffer) -> None:
        content(buffer)[...] = 0

    def launch(self, kernel: str, blocks: int, threads: int, *arguments: Argument) -> None:
        self.launched.append(kernel)
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        getattr(self._library, f"launch_{kernel}")(blocks, threads, pointers)

    def copy(self, source: Buffer, target: SharedBuffer) -> None:
        self.copied += target.array.nbytes
        target.array[...] = content(source)

    def begin(self) -> None:
        self._laps = [("", time.perf_counter())]

    def lap(self, name: str) -> None:
        self._laps.append((name, time.perf_counter()))

    def captured(self, ask: Callable[[], None]) -> Callable[[], None]:
        return ask

    def synchronise(self) -> None:
        laps, self._laps = self._laps, []
        self._laps_ms = {name: 1e3 * (at - before) for (_, before), (name, at) in pairwise(laps)}

    def laps_ms(self) -> dict[str, float]:
        return self._laps_ms

    def close(self) -> None:
        self.closed = True

    def download(self, buffer: Buffer) -> NDArray[Any]:
        return content(buffer).copy()


def content(buffer: Buffer) -> NDArray[Any]:
    """What lies in a buffer of this device."""
    assert isinstance(buffer.owner, np.ndarray)
    return buffer.owner


def _buffer(array: NDArray[Any]) -> Buffer:
    return Buffer(array.ctypes.data, array.shape, array.dtype, array)


def _value(argument: Argument) -> Any:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Buffer):
        return ctypes.c_void_p(argument.pointer)
    return ctypes.c_float(float(argument)) if isinstance(argument, np.float32) else ctypes.c_int32(int(argument))
