"""The real pycuda on ``host_driver.cpp``, a CUDA driver on the host; used like `HostCuda`.

Needs pycuda, g++ and the header ``cuda.h`` of a CUDA toolkit, but no GPU. The driver takes the place of
``libcuda.so.1`` in the whole process, so that these tests have one of their own (``make test-pycuda``).
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.inference.gpu import device

ON_DRIVER = os.environ.get("SCENE_COMPLETION_GPU") == "driver"
"""Tests run through pycuda on the driver on the host: ``make test-pycuda``."""

SOURCE = Path(__file__).with_name("host_driver.cpp")
ERRORS = {"unspecified launch failure": 719, "an illegal memory access was encountered": 700}
COUNTS = ("free", "allocated", "pinned", "allocations", "retained", "depth", "launched_graphs", "live_graphs", "events")


def cuda_header() -> Path | None:
    """The folder of ``cuda.h``; None where there is no toolkit."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_ROOT", "CUDA_PATH") if name in os.environ]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        homes.append(Path(nvcc).resolve().parents[1])
    homes += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    return next((home / "include" for home in homes if (home / "include" / "cuda.h").is_file()), None)


@functools.cache
def host_driver() -> ctypes.CDLL:
    """The driver, compiled and loaded; whoever asks for ``libcuda.so.1`` from now on gets it."""
    include = cuda_header()
    assert include is not None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        subprocess.run(
            [
                "g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", f"-I{include}",
                f"-Wl,-soname,{library.name}", "-o", str(library), str(SOURCE),
            ],
            check=True,
        )  # fmt: skip
        loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)  # the driver has a part of what pycuda may ask for
    try:
        import pycuda.driver as _  # noqa: F401
    finally:
        sys.setdlopenflags(flags)
    return loaded


class DriverCuda:
    """What `HostCuda` is, by the driver's own account."""

    def __init__(self) -> None:
        self._driver = host_driver()
        self._driver.host_driver_leave(ctypes.c_longlong(2**30))
        self.broken = ""
        self.no_graphs = 0
        self.no_launches = 0
        self.at_once = False
        self.popped_at_the_end = 0
        self._kept: list[Any] = []
        self._before = self._counts()["launched_graphs"]

    def __getattr__(self, name: str) -> int:
        if name not in COUNTS:
            raise AttributeError(name)
        return self._counts()[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "free":
            self._driver.host_driver_leave(ctypes.c_longlong(value))
            return
        if name == "broken":
            code = next((code for text, code in ERRORS.items() if text in value), 0)
            assert code or not value
            self._driver.host_driver_break(code)
        if name == "at_once":
            self._driver.host_driver_at_once(int(value))
        if name == "no_launches":
            self._driver.host_driver_without_launches(value)
        if name == "no_graphs":
            self._driver.host_driver_without_graphs(value)
        super().__setattr__(name, value)

    @property
    def stack(self) -> list[None]:
        """As long as this thread's stack of contexts."""
        return [None] * self._counts()["depth"]

    @property
    def graphs(self) -> int:
        """Graphs that were launched so far."""
        return self._counts()["launched_graphs"] - self._before

    def capturing(self, stream_handle: int) -> bool:
        """Whether what is asked of a stream goes into a graph."""
        return bool(self._driver.host_driver_capturing(ctypes.c_void_p(stream_handle)))

    def enqueue(self, stream_handle: int, work: Callable[[], object]) -> None:
        """Has work done in the order of a stream."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._kept.append(kind(lambda _: work() and None))  # a graph may call it again
        failed = self._driver.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), self._kept[-1], None)
        assert not failed, f"cuLaunchHostFunc: {failed}"

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count how often a released context is popped; pycuda is there already."""
        pop = device._pop_released_context

        def popped() -> None:
            pop()
            self.popped_at_the_end += 1

        patch.setattr(device, "_pop_released_context", popped)

    def _counts(self) -> dict[str, int]:
        found = (ctypes.c_longlong * len(COUNTS))()
        self._driver.host_driver_counts(found)
        return dict(zip(COUNTS, found, strict=True))
