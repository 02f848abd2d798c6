"""How the package compiles its CPU kernels: numba, cached on disk, safe to call from several threads."""

import fcntl
import logging
import math
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import event
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

# Reassociation lets sums over channels run in vector lanes. Infinities must keep their meaning (no "ninf"), because
# a half distance of infinity means "never".
OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy", "nogil": True}

CACHE_LINE = 64

# numba's fallback threading layer ("workqueue") aborts the process when two threads enter a parallel kernel at once.
_kernel_lock = threading.RLock()
_cache_lock = threading.Lock()  # two threads may call a kernel for the first time at once

COMPILING = "Compiling kernels"
UNCACHED = "about a minute in each process: no folder for their cache can be written (NUMBA_CACHE_DIR names one)"


class Compilation(event.Listener):  # type: ignore[misc]
    """Logs that kernels are compiled when the first of them is, then how far that is; cached kernels are none."""

    def __init__(self) -> None:
        self.kernels: list[Any] = []  # all that were called
        self.compiled = 0  # how many were compiled in this process
        self.running = False  # whether one is being compiled

    def on_start(self, event: Any) -> None:
        """A function begins to be compiled; those that a kernel inlines are part of it."""
        if event.data["dispatcher"] in self.kernels:
            if not self.compiled:
                cached = event.data["dispatcher"].stats.cache_path
                _log.info("%s, %s", COMPILING, "once, about a minute" if cached else UNCACHED)
            self.running = True

    def on_end(self, event: Any) -> None:
        """It is compiled, or could not be."""
        if event.data["dispatcher"] in self.kernels:
            self.running, self.compiled = False, self.compiled + 1
            _log.debug("%d kernels are compiled", self.compiled)


compilation = Compilation()  # of this process


def kernel(*, parallel: bool = True, inlines: Sequence[ModuleType] = ()) -> Callable[[Any], Callable[..., Any]]:
    """Compiles a function on its first call, releasing the GIL, and caches the machine code.

    `parallel`: ``prange`` runs on several cores; `inlines`: other modules of whose `inlined` functions and constants
    the kernel makes use. numba looks at the kernel's own file alone to see whether what it has cached is old. The name
    of the cached code therefore has a checksum of the others. The cache lies next to the source, or in the user's
    cache folder where that is read-only, or where the environment variable ``NUMBA_CACHE_DIR`` points to. Where nothing
    can be written, each process compiles anew (a few seconds). Where several need a kernel at the same time, one
    compiles it and the others wait. Before the first call, nothing of that touches the disk.
    """

    def compile_lazily(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = numba.njit(parallel=parallel, **OPTIONS)(function)
        compile_kernel = compiled.compile

        def compile_or_load(signature: Any) -> Any:
            with _cache_lock:
                if compiled not in compilation.kernels:
                    _open_cache(compiled, inlines)
            with _one_process(compiled):
                return compile_kernel(signature)

        compiled.compile = compile_or_load
        return compiled  # type: ignore[no-any-return]

    return compile_lazily


def _open_cache(compiled: Any, inlines: Sequence[ModuleType]) -> None:
    """Gives a kernel its cache, if it can have one, and has its compilations logged."""
    if inlines:
        sources = b"".join(Path(str(module.__file__)).read_bytes() for module in inlines)
        compiled.py_func.__qualname__ += f"_{zlib.crc32(sources):08x}"
    with suppress(RuntimeError):  # "no locator available": no cache folder can be written
        compiled.enable_caching()
    if not compilation.kernels:
        event.register("numba:compile", compilation)
    compilation.kernels.append(compiled)


@contextmanager
def _one_process(compiled: Any) -> Iterator[None]:
    """Has one of the processes that need a kernel at the same time compile it; the others wait and read the cache."""
    file, name = Path(compiled.py_func.__code__.co_filename), compiled.py_func.__qualname__
    with ExitStack() as stack:
        with suppress(OSError):  # nothing can be written, or the file system has no locks: each compiles for itself
            if folder := compiled.stats.cache_path:
                lock = Path(folder, f"{file.stem}.{name}.lock".replace("<locals>", "locals"))
                lock.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        yield


def inlined(function: Function) -> Function:
    """Marks a function that kernels of the same file call, or of one that names it (see `kernel`).

    It is compiled into them. It has no cache entry of its own, and must be a global name to its callers. numba takes a
    compiled function in a closure for a new one in every process. So numba would never find the caller's cache entry
    again.
    """
    return numba.njit(**OPTIONS)(function)  # type: ignore[no-any-return]


def always_inlined(function: Function) -> Function:
    """As `inlined`, where LLVM would leave a call to a long function; it does not learn constants of its caller."""
    return numba.njit(forceinline=True, **OPTIONS)(function)  # type: ignore[no-any-return]


@contextmanager
def kernel_threads(threads: int | None) -> Iterator[None]:
    """Runs kernels of this Python thread on ``threads`` cores (None: all that numba has), one caller at a time."""
    with _kernel_lock:
        before = numba.get_num_threads()
        numba.set_num_threads(max(1, min(threads or numba.config.NUMBA_NUM_THREADS, numba.config.NUMBA_NUM_THREADS)))
        try:
            yield
        finally:
            numba.set_num_threads(before)


def aligned_empty(*shape: int) -> NDArray[np.float32]:
    """An uninitialised float32 array of a shape that starts at a cache line, for what the kernels read most.

    Sixteen channels are one load where vectors have 512 bits. NumPy's arrays start at any multiple of 16 bytes, so that
    most such loads touch two lines. With tables and features like that, the voxel query of the shipped student takes
    half as long again.
    """
    size = 4 * math.prod(shape)
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(np.float32).reshape(shape)
